#!/usr/bin/env bash
# Installs avatar-moderation on a plain Debian (12 or newer) or Ubuntu (24.04 or newer) as systemd
# services. Run it again to upgrade: settings, secrets and data stay, the old code is kept for
# `install.sh --rollback`.
#
#   sudo deploy/install.sh                  from this folder
#   sudo deploy/install.sh --rollback       back to the code before the last upgrade
#   sudo deploy/install.sh --uninstall      remove services and code; data and settings stay
#   --extras api,worker,ledger,alarms,...   what to install (default: all)
#   --no-start                              do not enable and start the services
set -euo pipefail

readonly PREFIX=/opt/avatarmod
readonly ETC=/etc/avatarmod
readonly UNITS=/etc/systemd/system
readonly SERVICES=(avatarmod-valkey avatarmod-moderate avatarmod-io avatarmod-api)

extras=all
action=install
start=yes

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }

while [ $# -gt 0 ]; do
    case $1 in
        --extras) extras=${2:?--extras needs a list}; shift ;;
        --rollback) action=rollback ;;
        --uninstall) action=uninstall ;;
        --no-start) start=no ;;
        -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) fail "$1 is not known; see --help" ;;
    esac
    shift
done

[ "$(id -u)" = 0 ] || fail "run this as root: sudo $0"
source_folder=$(cd "$(dirname "$0")/.." && pwd)

# In a container or a chroot there is no systemd to talk to; files are installed all the same.
systemd_runs() { [ -d /run/systemd/system ]; }

restart() {
    systemd_runs && [ "$start" = yes ] || return 0
    systemctl daemon-reload
    systemctl enable --quiet avatarmod.target "${SERVICES[@]/%/.service}"
    systemctl restart avatarmod-valkey.service
    systemctl restart avatarmod-moderate.service avatarmod-io.service avatarmod-api.service
    systemctl start avatarmod.target
}

need_packages() {
    local missing=()
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3 python3-venv)
    [ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
    if [ "${#missing[@]}" -gt 0 ]; then
        command -v apt-get >/dev/null || fail "install ${missing[*]} first"
        say "Installing ${missing[*]} ..."
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            "${missing[@]}" >/dev/null
    fi
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "Python 3.11 or newer is needed; this is $(python3 --version)"
}

make_user() {
    id avatarmod >/dev/null 2>&1 ||
        useradd --system --user-group --home-dir /var/lib/avatarmod --shell /usr/sbin/nologin avatarmod
    install -d -m 0700 -o avatarmod -g avatarmod /var/lib/avatarmod /var/lib/avatarmod/valkey
    install -d -m 0755 "$ETC" "$ETC/models"
    install -d -m 0700 "$ETC/secrets"
}

# The new code is complete before the old one stops; one rename changes over.
install_code() {
    local new=$PREFIX/releases/$(date -u +%Y%m%d-%H%M%S)
    install -d -m 0755 "$PREFIX/releases"
    say "Installing packages into $new (a few minutes) ..."
    python3 -m venv "$new"
    if ! "$new/bin/pip" install --quiet --disable-pip-version-check --use-pep517 \
        "$source_folder[$extras]"; then
        rm -rf "$new"
        fail "pip could not install; nothing was changed"
    fi
    ln -s "$("$new/bin/python" -c 'from worker.embedded import server_binary as b; print(b())')" \
        "$new/bin/valkey-server"
    "$new/bin/avatarmod" --version >/dev/null
    local old
    old=$(readlink "$PREFIX/bin" || true)
    if [ -n "$old" ]; then ln -sfn "${old%/bin}" "$PREFIX/previous"; fi
    ln -sfn "$new/bin" "$PREFIX/bin.new"
    mv -T "$PREFIX/bin.new" "$PREFIX/bin"
    remove_old_code "$new"
}

remove_old_code() {
    local release previous
    previous=$(readlink "$PREFIX/previous" || true)
    for release in "$PREFIX"/releases/*; do
        if [ "$release" != "$1" ] && [ "$release" != "$previous" ]; then rm -rf "$release"; fi
    done
}

write_settings() {
    if [ ! -e "$ETC/avatarmod.env" ]; then
        install -m 0640 -g avatarmod /dev/null "$ETC/avatarmod.env"
        cat >"$ETC/avatarmod.env" <<SETTINGS
# Settings of avatar-moderation; all of them: docs/configuration.md. Secrets belong into
# $ETC/secrets, one file each, named like the variable in small letters without AVATARMOD_.
AVATARMOD_REDIS_URL=unix:///run/avatarmod/valkey.sock
AVATARMOD_DATA_FOLDER=/var/lib/avatarmod
AVATARMOD_MODELS_FOLDER=$ETC/models
AVATARMOD_LOG_FORMAT=json
AVATARMOD_API_PORT=8042
#AVATARMOD_CALLBACK_URL=https://example.org/avatar-verdict
SETTINGS
    fi
    if [ ! -e "$ETC/secrets/callback_secrets" ]; then
        (umask 077 && python3 -c 'import base64, secrets
print("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())' >"$ETC/secrets/callback_secrets")
    fi
    [ -e "$ETC/valkey.conf" ] || install -m 0644 "$source_folder/deploy/systemd/valkey.conf" "$ETC/"
}

install_units() {
    install -d "$UNITS"
    install -m 0644 "$source_folder"/deploy/systemd/*.service "$source_folder"/deploy/systemd/*.target \
        "$UNITS/"
}

rollback() {
    local previous
    previous=$(readlink "$PREFIX/previous" || true)
    [ -n "$previous" ] && [ -d "$previous" ] || fail "there is no earlier version to go back to"
    local current
    current=$(readlink "$PREFIX/bin")
    ln -sfn "$previous/bin" "$PREFIX/bin.new"
    mv -T "$PREFIX/bin.new" "$PREFIX/bin"
    ln -sfn "${current%/bin}" "$PREFIX/previous"
    restart
    say "Back to $("$PREFIX/bin/avatarmod" --version)."
}

uninstall() {
    if systemd_runs; then
        systemctl disable --quiet --now avatarmod.target "${SERVICES[@]/%/.service}" || true
    fi
    rm -f "$UNITS/avatarmod.target"
    rm -f "$UNITS"/avatarmod-{valkey,moderate,io,api}.service
    if systemd_runs; then systemctl daemon-reload; fi
    rm -rf "$PREFIX"
    say "Removed. Data stays in /var/lib/avatarmod, settings in $ETC."
}

case $action in
    rollback) rollback ;;
    uninstall) uninstall ;;
    install)
        need_packages
        make_user
        install_code
        write_settings
        install_units
        restart
        say "Installed $("$PREFIX/bin/avatarmod" --version)."
        say "Secret of the callbacks, for the web tier: $ETC/secrets/callback_secrets"
        if systemd_runs && [ "$start" = yes ]; then
            say "API key and console password: see docs/quickstart.md; state: systemctl status 'avatarmod*'"
        else
            say "Not started: enable avatarmod.target when the machine runs systemd."
        fi
        ;;
esac
