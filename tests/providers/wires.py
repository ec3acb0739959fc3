"""The wire protocols of the providers, from their side: signatures recomputed, replies made up.

Every `Wire` checks what its provider checks, and answers in its form. Values are invented.
"""

from __future__ import annotations

import base64
import datetime
import email.utils
import hashlib
import hmac
import json
import re
import time
import urllib.parse
from collections.abc import Callable
from typing import Any, ClassVar

from tests.providers.stub import Call, Response, answer

KEY_ID = "AKtestkeyid0123456789"
SECRET = "stubsecret/+0123456789abcdef"


def hmac_sha256(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def hmac_sha1_base64(key: str, text: str) -> str:
    return base64.b64encode(hmac.new(key.encode(), text.encode(), hashlib.sha1).digest()).decode()


def sha256_hex(data: bytes | str) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


class Wire:
    """One provider's side.

    `scenario` is what the next judged pictures get, `edit` changes that once more; `clock_s` shifts
    the stub's clock, so that our signatures look old.
    """

    name: ClassVar[str]
    #: Requests for one judged picture besides the judging one (keys, upload).
    keys: ClassVar[dict[str, str]]

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """As at the beginning."""
        self.scenario = "clean"
        self.clock_s = 0.0
        self.judged = 0
        self.edit: Callable[[Response], Response] | None = None

    def settings(self, url: str) -> dict[str, Any]:
        return {f"{self.name}_endpoint": url, **self.keys}

    def now_s(self) -> float:
        return time.time() + self.clock_s

    def respond(self, call: Call) -> Response:
        refusal = self.verify(call)
        if refusal is not None:
            return refusal
        side = self.side_step(call)
        if side is not None:
            return side
        self.judged += 1
        response = self.play(self.scenario, call)
        return response if self.edit is None else self.edit(response)

    def play(self, scenario: str, call: Call) -> Response:
        if scenario == "html":
            return Response(200, b"<html>Welcome</html>", {"Content-Type": "text/html"})
        if scenario == "html_502":
            return Response(502, b"<html>Bad gateway</html>", {"Content-Type": "text/html"})
        if scenario == "timeout":
            return Response(200, b"{}", delay_s=30.0)
        if scenario == "drip":
            return Response(200, b"{" + b" " * 1000, {"Content-Type": "application/json"}, 0, 0.2)
        return self.reply(scenario, call)

    def verify(self, call: Call) -> Response | None:
        raise NotImplementedError

    def side_step(self, call: Call) -> Response | None:
        return None

    def reply(self, scenario: str, call: Call) -> Response:
        raise NotImplementedError


def oss_error(call: Call, bucket_secret: str, token: str) -> Response | None:
    """Recompute the OSS V1 header signature of an upload; None when it is right."""
    headers = call.headers
    oss = sorted((k, v) for k, v in headers.items() if k.startswith("x-oss-"))
    text = "\n".join((call.method, headers.get("content-md5", ""), headers.get("content-type", "")))
    text += f"\n{headers.get('date', '')}\n" + "".join(f"{k}:{v}\n" for k, v in oss)
    text += urllib.parse.unquote(call.target)
    good = f"OSS STS.key:{hmac_sha1_base64(bucket_secret, text)}"
    if headers.get("authorization") == good and headers.get("x-oss-security-token") == token:
        return None
    body = b"<Error><Code>SignatureDoesNotMatch</Code><Message>no</Message></Error>"
    return Response(403, body, {"Content-Type": "application/xml"})


class Bucket:
    """The temporary bucket both Alibaba stubs lend."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.fails = 0

    def put(self, call: Call) -> Response:
        refusal = oss_error(call, "bucketsecret", "bucket-token")
        if refusal is not None:
            return refusal
        if self.fails > 0:
            self.fails -= 1
            body = b"<Error><Code>ServiceUnavailable</Code></Error>"
            return Response(503, body, {"Content-Type": "application/xml"})
        self.objects[urllib.parse.unquote(call.target).lstrip("/")] = call.body
        return Response(200, b"", {"ETag": '"x"', "x-oss-request-id": "oss-1"})


class AliyunWire(Wire):
    """Content moderation 1.0, ROA signature."""

    name = "aliyun"
    keys: ClassVar = {"aliyun_access_key_id": KEY_ID, "aliyun_access_key_secret": SECRET}

    def reset(self) -> None:
        """As at the beginning, with an empty bucket."""
        super().reset()
        self.bucket = Bucket()
        self.has_colon = True

    def verify(self, call: Call) -> Response | None:
        if call.method == "PUT":
            return None
        headers = call.headers
        path, _, query = call.target.partition("?")
        decoded = "&".join(
            f"{k}={v}" if v else k for k, v in sorted(urllib.parse.parse_qsl(query, True))
        )
        acs = sorted((k, v) for k, v in headers.items() if k.startswith("x-acs-"))
        text = "\n".join(
            (
                call.method,
                headers.get("accept", ""),
                headers.get("content-md5", ""),
                headers.get("content-type", ""),
                headers.get("date", ""),
            )
        )
        text += "\n" + "".join(f"{k}:{v}\n" for k, v in acs)
        text += f"{path}?{decoded}" if decoded else path
        md5 = base64.b64encode(hashlib.md5(call.body).digest()).decode()
        when = email.utils.parsedate_to_datetime(headers["date"]).timestamp()
        if abs(self.now_s() - when) > 900:
            return self.error(400, "IllegalTimestamp", "The input parameter Date is old.")
        if not headers["authorization"].startswith(f"acs {KEY_ID}:"):
            return self.error(404, "InvalidAccessKeyId.NotFound", "Specified access key is unknown")
        good = f"acs {KEY_ID}:{hmac_sha1_base64(SECRET, text)}"
        if headers["authorization"] != good or headers.get("content-md5") != md5:
            told = f"server string to sign is:{text}" if self.has_colon else "no match"
            return self.error(400, "SignatureDoesNotMatch", told)
        return None

    def error(self, status: int, code: str, message: str) -> Response:
        return answer({"Code": code, "Message": message, "RequestId": "R-1"}, status)

    def side_step(self, call: Call) -> Response | None:
        if call.method == "PUT":
            return self.bucket.put(call)
        if call.target.startswith("/green/credentials/uploadcredentials"):
            data = {
                "accessKeyId": "STS.key",
                "accessKeySecret": "bucketsecret",
                "securityToken": "bucket-token",
                "expiredTime": int((time.time() + 3600) * 1000),
                "ossEndpoint": f"http://{call.headers['host']}",
                "ossInternalEndpoint": "http://127.0.0.1:1",
                "uploadBucket": "green-upload-x",
                "uploadFolder": "up",
            }
            return answer({"code": 200, "msg": "OK", "requestId": "R-1", "data": data})
        return None

    RESULTS: ClassVar[dict[str, Any]] = {
        "clean": {"scene": "porn", "label": "normal", "suggestion": "pass", "rate": 99.91},
        "explicit": {"scene": "porn", "label": "porn", "suggestion": "block", "rate": 98.2},
        "gray": {"scene": "porn", "label": "sexy", "suggestion": "review", "rate": 78.35},
        "unknown_label": {"scene": "porn", "label": "odd", "suggestion": "pass", "rate": 50},
        "unknown_verdict": {"scene": "porn", "label": "normal", "suggestion": "fine", "rate": 9},
        "missing": {"scene": "porn", "label": "normal", "rate": 99.9},
        "other_scene": {"scene": "ad", "label": "normal", "suggestion": "pass", "rate": 99.9},
    }
    CODES: ClassVar[dict[str, int]] = {
        "throttled": 588,
        "business_error": 586,
        "not_activated": 596,
        "rejected": 589,
        "odd_code": 999,
    }

    def reply(self, scenario: str, call: Call) -> Response:
        body = call.json()
        assert body["scenes"] == ["porn"]
        (task,) = body["tasks"]
        assert self.bucket.objects[task["url"].removeprefix("oss://")].startswith(b"\xff\xd8")
        if scenario == "5xx":
            return self.error(503, "ServiceUnavailable", "later")
        if scenario == "gateway_throttled":
            return self.error(400, "Throttling.User", "too many")
        if scenario == "forbidden":
            return self.error(403, "Forbidden.RAM", "no")
        if scenario == "request_code":
            return answer({"code": 596, "msg": "not opened", "requestId": "R-1"})
        entry = {"code": 200, "msg": "OK", "dataId": task["dataId"], "taskId": "img-1"}
        if scenario in self.CODES:
            entry = {"code": self.CODES[scenario], "msg": "no"}
        else:
            entry["results"] = [self.RESULTS.get(scenario, self.RESULTS["clean"])]
        data = [entry, entry] if scenario == "two_tasks" else [entry]
        return answer({"code": 200, "msg": "OK", "requestId": "R-1", "data": data})


class Aliyun2Wire(Wire):
    """Image moderation 2.0, ACS3-HMAC-SHA256."""

    name = "aliyun2"
    keys: ClassVar = {"aliyun2_access_key_id": KEY_ID, "aliyun2_access_key_secret": SECRET}

    def reset(self) -> None:
        """As at the beginning, with an empty bucket."""
        super().reset()
        self.bucket = Bucket()

    def verify(self, call: Call) -> Response | None:
        if call.method == "PUT":
            return None
        headers = call.headers
        match = re.fullmatch(
            r"ACS3-HMAC-SHA256 Credential=([^,]+),SignedHeaders=([^,]+),Signature=([0-9a-f]{64})",
            headers["authorization"],
        )
        assert match
        key_id, names, signature = match.groups()
        when = datetime.datetime.fromisoformat(headers["x-acs-date"].replace("Z", "+00:00"))
        if abs(self.now_s() - when.timestamp()) > 900:
            return self.error(400, "InvalidTimeStamp.Expired", "Specified time stamp is expired.")
        if key_id != KEY_ID:
            return self.error(404, "InvalidAccessKeyId.NotFound", "Specified access key is unknown")
        for name in ("host", "x-acs-action", "x-acs-content-sha256", "x-acs-date"):
            assert name in names.split(";")
        path, _, query = call.target.partition("?")
        encoded = "&".join(
            f"{urllib.parse.quote(k, '~')}={urllib.parse.quote(v, '~')}"
            for k, v in sorted(urllib.parse.parse_qsl(query, True))
        )
        lines = "".join(f"{name}:{headers[name].strip()}\n" for name in names.split(";"))
        digest = sha256_hex(call.body)
        canonical = "\n".join((call.method, path, encoded, lines, names, digest))
        text = f"ACS3-HMAC-SHA256\n{sha256_hex(canonical)}"
        good = hmac_sha256(SECRET.encode(), text).hex()
        if not hmac.compare_digest(good, signature) or headers["x-acs-content-sha256"] != digest:
            return self.error(400, "SignatureDoesNotMatch", "Specified signature does not match")
        return None

    def error(self, status: int, code: str, message: str) -> Response:
        return answer({"Code": code, "Message": message, "RequestId": "R-2"}, status)

    def side_step(self, call: Call) -> Response | None:
        if call.method == "PUT":
            return self.bucket.put(call)
        if call.headers.get("x-acs-action") == "DescribeUploadToken":
            data = {
                "AccessKeyId": "STS.key",
                "AccessKeySecret": "bucketsecret",
                "SecurityToken": "bucket-token",
                "Expiration": int(time.time()) + 3600,
                "OssInternetEndPoint": f"http://{call.headers['host']}",
                "OssInternalEndPoint": "http://127.0.0.1:1",
                "BucketName": "green-upload-y",
                "FileNamePrefix": "upload/77/",
            }
            return answer({"Code": 200, "Msg": "OK", "RequestId": "R-2", "Data": data})
        return None

    RESULTS: ClassVar[dict[str, Any]] = {
        "clean": [{"Label": "nonLabel", "RiskLevel": "none"}],
        "explicit": [
            {"Label": "pornographic_adultContent", "Confidence": 94.9, "RiskLevel": "high"},
            {"Label": "sexual_cartoon", "Confidence": 61.2, "RiskLevel": "medium"},
        ],
        "gray": [{"Label": "sexual_cartoon", "Confidence": 81.2, "RiskLevel": "high"}],
        "unknown_label": [{"Label": "something_new", "Confidence": 90, "RiskLevel": "high"}],
        "unknown_verdict": [{"Label": "ad_qr", "Confidence": 90, "RiskLevel": "extreme"}],
        "missing": [],
        "no_level": [{"Label": "pornographic_adultContent", "Confidence": 94.9}],
        "mild_porn": [{"Label": "pornographic_artwork", "Confidence": 55.0, "RiskLevel": "medium"}],
        "underage": [{"Label": "sexual_underage", "Confidence": 85.0, "RiskLevel": "high"}],
        "advert": [{"Label": "ad_qrcode", "Confidence": 70.0, "RiskLevel": "low"}],
        "two_labels": [
            {"Label": "ad_qrcode", "Confidence": 70.0, "RiskLevel": "low"},
            {"Label": "sexual_partialNudity", "Confidence": 70.0, "RiskLevel": "high"},
        ],
        "allowed": [{"Label": "nonLabel_lib", "Confidence": 100.0, "RiskLevel": "none"}],
    }
    CODES: ClassVar[dict[str, int]] = {
        "throttled": 588,
        "business_error": 500,
        "not_activated": 408,
        "rejected": 400,
        "odd_code": 999,
    }

    def reply(self, scenario: str, call: Call) -> Response:
        assert call.headers["x-acs-action"] == "ImageModeration"
        form = dict(urllib.parse.parse_qsl(call.body.decode()))
        assert form["Service"] == "profilePhotoCheck"
        where = json.loads(form["ServiceParameters"])
        name = f"{where['ossBucketName']}/{where['ossObjectName']}"
        assert self.bucket.objects[name].startswith(b"\xff\xd8")
        if scenario == "5xx":
            return self.error(503, "ServiceUnavailable", "later")
        if scenario == "gateway_throttled":
            return self.error(400, "Throttling.User", "too many")
        if scenario == "forbidden":
            return self.error(403, "Forbidden.RAM", "no")
        if scenario in self.CODES:
            return answer({"Code": self.CODES[scenario], "Msg": "no", "RequestId": "R-2"})
        data = {
            "DataId": where["dataId"],
            "RiskLevel": "none",
            "Result": self.RESULTS.get(scenario, self.RESULTS["clean"]),
        }
        return answer({"Code": 200, "Msg": "OK", "RequestId": "R-2", "Data": data})


class TencentWire(Wire):
    """IMS, TC3-HMAC-SHA256."""

    name = "tencent"
    keys: ClassVar = {"tencent_secret_id": KEY_ID, "tencent_secret_key": SECRET}

    def verify(self, call: Call) -> Response | None:
        headers = call.headers
        match = re.fullmatch(
            r"TC3-HMAC-SHA256 Credential=([^/]+)/(\d{4}-\d\d-\d\d)/ims/tc3_request, "
            r"SignedHeaders=([^,]+), Signature=([0-9a-f]{64})",
            headers["authorization"],
        )
        assert match
        key_id, date, names, signature = match.groups()
        stamp = int(headers["x-tc-timestamp"])
        if abs(self.now_s() - stamp) > 300:
            return self.error("AuthFailure.SignatureExpire", "The provided credentials expired.")
        if key_id != KEY_ID:
            return self.error("AuthFailure.SecretIdNotFound", "The SecretId is not found.")
        lines = "".join(f"{name}:{headers[name].strip()}\n" for name in names.split(";"))
        canonical = "\n".join(("POST", "/", "", lines, names, sha256_hex(call.body)))
        scope = f"{date}/ims/tc3_request"
        text = f"TC3-HMAC-SHA256\n{stamp}\n{scope}\n{sha256_hex(canonical)}"
        key = f"TC3{SECRET}".encode()
        for part in (date, "ims", "tc3_request"):
            key = hmac_sha256(key, part)
        good = hmac_sha256(key, text).hex()
        today = datetime.datetime.fromtimestamp(stamp, datetime.UTC).date().isoformat()
        if not hmac.compare_digest(good, signature) or date != today:
            return self.error("AuthFailure.SignatureFailure", "The provided credentials are wrong.")
        return None

    def error(self, code: str, message: str, content_type: str = "application/json") -> Response:
        body = {"Response": {"Error": {"Code": code, "Message": message}, "RequestId": "R-3"}}
        return Response(200, json.dumps(body).encode(), {"Content-Type": content_type})

    RESULTS: ClassVar[dict[str, Any]] = {
        "clean": {"Suggestion": "Pass", "Label": "Normal", "Score": 0},
        "explicit": {
            "Suggestion": "Block",
            "Label": "Porn",
            "SubLabel": "Sample",
            "Score": 96,
            "LabelResults": [
                {"Scene": "Porn", "Suggestion": "Block", "Label": "Porn", "Score": 96}
            ],
        },
        "gray": {"Suggestion": "Review", "Label": "Porn", "Score": 76},
        "unknown_label": {"Suggestion": "Block", "Label": "Novelty", "Score": 90},
        "unknown_verdict": {"Suggestion": "Perhaps", "Label": "Normal", "Score": 0},
        "missing": {"Suggestion": None, "Label": "Normal", "Score": 0},
        "advert": {"Suggestion": "Block", "Label": "Ad", "Score": 99},
        "two_labels": {
            "Suggestion": "Block",
            "Label": "Ad",
            "Score": 99,
            "LabelResults": [
                {"Scene": "Ad", "Suggestion": "Block", "Label": "Ad", "Score": 99},
                {"Scene": "Porn", "Suggestion": "Block", "Label": "Porn", "Score": 91},
            ],
        },
        "pass_porn": {"Suggestion": "Pass", "Label": "Porn", "Score": 20},
    }
    CODES: ClassVar[dict[str, str]] = {
        "throttled": "RequestLimitExceeded",
        "business_error": "InternalError.InternalError",
        "not_activated": "UnauthorizedOperation.Unauthorized",
        "rejected": "InvalidParameterValue.ImageSizeTooSmall",
        "odd_code": "Surprise.Surprise",
        "busy": "ResourceUnavailable.ModelCallFailed",
        "sold_out": "ResourcesSoldOut",
        "bad_request": "InvalidParameter.InvalidParameter",
    }

    def reply(self, scenario: str, call: Call) -> Response:
        assert call.headers["x-tc-action"] == "ImageModeration"
        body = call.json()
        assert base64.b64decode(body["FileContent"]).startswith(b"\xff\xd8")
        assert re.fullmatch(r"[A-Za-z0-9_@#-]{1,64}", body["DataId"])
        if scenario == "5xx":
            return Response(503, b"busy", {"Content-Type": "text/plain"})
        if scenario == "charset":
            return self.error(
                "InternalError.InternalError", "overlooked", "application/json; charset=utf-8"
            )
        if scenario in self.CODES:
            return self.error(self.CODES[scenario], "no")
        result = {
            "LabelResults": None,
            "ObjectResults": None,
            "OcrResults": None,
            "LibResults": None,
            "DataId": body["DataId"],
            "RequestId": "R-3",
            **self.RESULTS.get(scenario, self.RESULTS["clean"]),
        }
        return answer({"Response": result})


class CloudflareWire(Wire):
    """Workers AI, bearer token."""

    name = "cloudflare"
    keys: ClassVar = {
        "cloudflare_account_id": "0123456789abcdef0123456789abcdef",
        "cloudflare_api_token": SECRET,
    }

    def verify(self, call: Call) -> Response | None:
        given = call.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {SECRET}".encode()):
            return self.error(401, 10000, "Authentication error")
        return None

    def error(self, status: int, code: int, message: str, **headers: str) -> Response:
        body = {
            "result": None,
            "success": False,
            "errors": [{"code": code, "message": message}],
            "messages": [],
        }
        return answer(body, status, **headers)

    SCORES: ClassVar[dict[str, Any]] = {"clean": 0.0312, "explicit": 0.97, "gray": 0.5}
    ERRORS: ClassVar[dict[str, tuple[int, int]]] = {
        "throttled": (429, 3040),
        "business_error": (408, 3007),
        "not_activated": (403, 5035),
        "quota": (429, 4006),
        "rejected": (422, 5012),
        "overloaded": (529, 5012),
        "too_large": (413, 5021),
        "5xx": (503, 3000),
        "odd_code": (418, 1),
        "agree": (403, 5016),
        "bad_account": (404, 7003),
    }

    def reply(self, scenario: str, call: Call) -> Response:
        account = self.keys["cloudflare_account_id"]
        assert call.target == f"/accounts/{account}/ai/run/@cf/cloudflare/clef-flash"
        body = call.json()
        assert body["model"] == "clef-flash"
        assert set(body) == {"model", "state", "questions", "images"}
        (image,) = body["images"]
        assert base64.b64decode(image.removeprefix("data:image/jpeg;base64,"))[:2] == b"\xff\xd8"
        if scenario == "retry_after":
            return self.error(429, 3040, "busy", Retry_After="17")
        if scenario in self.ERRORS:
            return self.error(*self.ERRORS[scenario], "no")
        answers: dict[str, Any] = {
            "explicit": {"type": "noul", "noul": self.SCORES.get(scenario, 0.0312)}
        }
        if scenario == "missing":
            answers = {"tier": {"type": "choice", "choice": "safe"}}
        if scenario in ("unknown_label", "unknown_verdict"):
            answers["explicit"]["noul"] = "hardly"
        result = {"model": "clef-flash", "answers": answers, "usage": {"input_tokens": 412}}
        if scenario == "result_list":
            result = [result]  # type: ignore[assignment]
        envelope = {"result": result, "success": True, "errors": [], "messages": []}
        if scenario == "not_success":
            envelope["success"] = False
        return answer(envelope, cf_ray="ray-1")


class HuggingFaceWire(Wire):
    """An inference endpoint, bearer token."""

    name = "huggingface"
    keys: ClassVar = {"huggingface_token": SECRET}

    def verify(self, call: Call) -> Response | None:
        given = call.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {SECRET}".encode()):
            return answer({"error": "Invalid credentials in Authorization header"}, 401)
        return None

    STATUS: ClassVar[dict[str, int]] = {
        "throttled": 429,
        "5xx": 500,
        "not_activated": 402,
        "rejected": 413,
        "gated": 403,
        "not_served": 404,
        "business_error": 504,
        "odd_code": 400,
    }

    def reply(self, scenario: str, call: Call) -> Response:
        if call.headers.get("content-type") != "image/jpeg":
            return answer({"error": "No content type provided"}, 400)
        assert call.body.startswith(b"\xff\xd8")
        if scenario in self.STATUS:
            return answer({"error": "no"}, self.STATUS[scenario])
        if scenario == "loading":
            return answer({"error": "Model is currently loading", "estimated_time": 20.0}, 503)
        if scenario == "retry_after":
            return answer({"error": "no"}, 429, Retry_After="17")
        score = {"clean": 0.01, "explicit": 0.9912, "gray": 0.5}.get(scenario, 0.01)
        entries: Any = [
            {"label": "NSFW", "score": score},
            {"label": "normal", "score": round(1 - score, 4)},
        ]
        if scenario == "missing":
            entries = []
        if scenario == "unknown_verdict":
            entries = {"error": "strange"}
        if scenario == "unknown_label":
            entries = [{"label": "LABEL_0", "score": 0.9}, {"label": "LABEL_1", "score": 0.1}]
        if scenario == "nested":
            entries = [entries]
        return answer(entries, x_request_id="R-5")


class RekognitionWire(Wire):
    """DetectModerationLabels, AWS SigV4."""

    name = "rekognition"
    keys: ClassVar = {
        "rekognition_access_key_id": KEY_ID,
        "rekognition_secret_access_key": SECRET,
    }

    def verify(self, call: Call) -> Response | None:
        headers = call.headers
        match = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([a-z0-9-]+)/rekognition/aws4_request, "
            r"SignedHeaders=([^,]+), Signature=([0-9a-f]{64})",
            headers["authorization"],
        )
        assert match
        key_id, date, region, names, signature = match.groups()
        stamp = headers["x-amz-date"]
        when = datetime.datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.UTC)
        if abs(self.now_s() - when.timestamp()) > 900:
            return self.error("InvalidSignatureException", "Signature expired", 400)
        if key_id != KEY_ID:
            return self.error("UnrecognizedClientException", "The security token is invalid", 400)
        lines = "".join(f"{name}:{headers[name].strip()}\n" for name in names.split(";"))
        canonical = "\n".join(("POST", "/", "", lines, names, sha256_hex(call.body)))
        scope = f"{date}/{region}/rekognition/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{sha256_hex(canonical)}"
        key = f"AWS4{SECRET}".encode()
        for part in (date, region, "rekognition", "aws4_request"):
            key = hmac_sha256(key, part)
        if not hmac.compare_digest(hmac_sha256(key, text).hex(), signature):
            return self.error("InvalidSignatureException", "The signature does not match", 400)
        return None

    def error(self, code: str, message: str, status: int) -> Response:
        body = json.dumps({"__type": code, "message": message}).encode()
        headers = {"Content-Type": "application/x-amz-json-1.1", "x-amzn-RequestId": "R-6"}
        return Response(status, body, headers)

    LABELS: ClassVar[dict[str, Any]] = {
        "clean": [],
        "explicit": [
            ("Explicit", "", 91.7),
            ("Explicit Nudity", "Explicit", 91.7),
            ("Exposed Female Nipple", "Explicit Nudity", 88.3),
        ],
        "gray": [("Explicit", "", 55.0), ("Explicit Nudity", "Explicit", 55.0)],
        "unknown_label": [("Novelty", "", 60.0)],
        "unknown_leaf": [("Explicit", "", 95.0), ("New Leaf", "Explicit", 95.0)],
        "mixed_leaf": [
            ("Non-Explicit Nudity of Intimate parts and Kissing", "", 60.0),
            ("New Leaf", "Non-Explicit Nudity of Intimate parts and Kissing", 60.0),
        ],
        "swimwear": [
            ("Swimwear or Underwear", "", 99.0),
            ("Female Swimwear or Underwear", "Swimwear or Underwear", 99.0),
        ],
        "pills": [
            ("Drugs & Tobacco", "", 99.0),
            ("Products", "Drugs & Tobacco", 99.0),
            ("Pills", "Products", 99.0),
        ],
        "suggestive": [
            ("Non-Explicit Nudity of Intimate parts and Kissing", "", 92.0),
            ("Non-Explicit Nudity", "Non-Explicit Nudity of Intimate parts and Kissing", 92.0),
            ("Implied Nudity", "Non-Explicit Nudity", 92.0),
        ],
        "bare_back": [
            ("Non-Explicit Nudity of Intimate parts and Kissing", "", 92.0),
            ("Non-Explicit Nudity", "Non-Explicit Nudity of Intimate parts and Kissing", 72.0),
            ("Bare Back", "Non-Explicit Nudity", 92.0),
        ],
        "drawn": [("Explicit", "", 85.0), ("Explicit Nudity", "Explicit", 85.0)],
        "gore": [("Visually Disturbing", "", 95.0)],
    }
    ERRORS: ClassVar[dict[str, tuple[str, int]]] = {
        "throttled": ("ThrottlingException", 500),
        "business_error": ("InternalServerError", 500),
        "not_activated": ("AccessDeniedException", 400),
        "rejected": ("InvalidParameterException", 400),
        "5xx": ("SomethingElse", 503),
        "provisioned": ("ProvisionedThroughputExceededException", 400),
        "expired": ("ExpiredTokenException", 400),
        "odd_code": ("NoSuchThing", 400),
    }

    def reply(self, scenario: str, call: Call) -> Response:
        assert call.headers["x-amz-target"] == "RekognitionService.DetectModerationLabels"
        body = call.json()
        assert base64.b64decode(body["Image"]["Bytes"]).startswith(b"\xff\xd8")
        assert body["MinConfidence"] == 30
        if scenario in self.ERRORS:
            code, status = self.ERRORS[scenario]
            return self.error(code, "no", status)
        labels = [
            {"Confidence": confidence, "Name": name, "ParentName": parent, "TaxonomyLevel": 1}
            for name, parent, confidence in self.LABELS.get(scenario, [])
        ]
        if scenario == "unknown_verdict":
            labels = [{"Confidence": 99.0, "ParentName": ""}]
        style = "Illustrated" if scenario == "drawn" else "Photograph"
        reply: dict[str, Any] = {
            "ModerationLabels": labels,
            "ModerationModelVersion": "7.0",
            "ContentTypes": [{"Confidence": 97.1, "Name": style}],
        }
        if scenario == "missing":
            del reply["ModerationLabels"]
        data = json.dumps(reply).encode()
        headers = {"Content-Type": "application/x-amz-json-1.1", "x-amzn-RequestId": "R-6"}
        return Response(200, data, headers)


WIRES: tuple[type[Wire], ...] = (
    AliyunWire,
    Aliyun2Wire,
    TencentWire,
    CloudflareWire,
    HuggingFaceWire,
    RekognitionWire,
)
