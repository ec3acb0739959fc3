"""The least of a site around the app; take INSTALLED_APPS and the AVATARMOD_ lines into yours."""

from __future__ import annotations

import os
from pathlib import Path

BASE = Path(os.environ.get("DEMO_FOLDER", Path(__file__).parents[1] / "data"))

SECRET_KEY = os.environ.get("DEMO_SECRET_KEY", "only for the demo")
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "avatars"]
ROOT_URLCONF = "avatars.urls"
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(BASE / "demo.sqlite3")}
}
MEDIA_ROOT = BASE / "media"
MEDIA_URL = "/media/"
USE_TZ = True

#: What `avatarmod keys connect site` printed.
AVATARMOD_CONNECTION = os.environ.get("AVATARMOD_CONNECTION", "")
#: Begins every id, so that several sites can share one service; never change it.
AVATARMOD_PREFIX = "demo/avatar-"
AVATARMOD_DEFAULT_AVATAR = "/static/default-avatar.png"
