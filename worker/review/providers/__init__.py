"""The review providers: one adapter a file, its settings beside it, one line in this table."""

#: Where each provider's adapter is; imported only when the provider is configured, because the SDKs
#: take memory: aliyun 25 MiB, aliyun2 38, tencent 9, cloudflare and huggingface 5 each, rekognition
#: 23; the three domestic ones together 40 (resident, with the client built, Python 3.11).
ADAPTERS = {
    "aliyun": "worker.review.providers.aliyun:AliyunProvider",
    "aliyun2": "worker.review.providers.aliyun2:Aliyun2Provider",
    "tencent": "worker.review.providers.tencent:TencentProvider",
    "cloudflare": "worker.review.providers.cloudflare:CloudflareProvider",
    "huggingface": "worker.review.providers.huggingface:HuggingFaceProvider",
    "rekognition": "worker.review.providers.rekognition:RekognitionProvider",
    "fake": "worker.review.providers.fake:FakeProvider",
}
