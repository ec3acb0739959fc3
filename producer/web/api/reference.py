"""`GET /docs`: the API to read and to try out, with Swagger UI from this very machine.

FastAPI's own page loads its scripts from a CDN and starts them inline. The files here come with the
package fastapi-offline, and the page's policy lets it load and ask nothing but this server.
"""

from __future__ import annotations

from importlib import resources

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse, HTMLResponse

router = APIRouter(include_in_schema=False)

#: Files of the page: name -> (package, media type).
FILES = {
    "swagger-ui.css": ("fastapi_offline", "text/css; charset=utf-8"),
    "swagger-ui-bundle.js": ("fastapi_offline", "text/javascript; charset=utf-8"),
    "docs.js": ("producer.web.api", "text/javascript; charset=utf-8"),
}

#: Swagger UI's stylesheet holds its icons as data: addresses.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)

PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>API · avatar-moderation</title>
<link rel="icon" href="console/static/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="docs/swagger-ui.css">
<script src="docs/swagger-ui-bundle.js" defer></script>
<script src="docs/docs.js" defer></script>
</head>
<body><main id="docs"></main><noscript>The same as data: <a href="openapi.json">openapi.json</a>
</noscript></body>
</html>
"""


@router.get("/docs")
async def page() -> Response:
    """The page; what it shows is `/openapi.json`."""
    return HTMLResponse(PAGE, headers={"content-security-policy": POLICY})


@router.get("/docs/{name}")
def file(name: str) -> Response:
    """One file of the page."""
    if name not in FILES:
        return Response(status_code=404)
    package, media_type = FILES[name]
    path = str(resources.files(package) / "static" / name)
    return FileResponse(path, media_type=media_type, headers={"cache-control": "max-age=3600"})
