#!/usr/bin/env bash
# Installs avatar-moderation on a plain Debian (12 or newer) or Ubuntu (24.04 or newer) as systemd
# services. Run it again to upgrade: settings, secrets and data stay, the old code is kept for
# `install.sh --rollback`.
#
#   sudo deploy/install.sh                  from this folder
#   sudo deploy/install.sh --rollback       back to the code before the last upgrade
#   sudo deploy/install.sh --uninstall      remove services and code; data and settings stay
#   --extras all,export-light,tracing,...   what to install (default: as before; at first: all)
#   --no-start                              do not enable and start the services
# Where the package index is slow, PIP_INDEX_URL names a mirror.
set -euo pipefail

readonly PREFIX=/opt/avatarmod
readonly ETC=/etc/avatarmod
readonly UNITS=/etc/systemd/system
readonly COMMAND=/usr/local/bin/avatarmod
# What was asked for last, so that an upgrade takes nothing away.
readonly EXTRAS=$PREFIX/extras
readonly SERVICES=(avatarmod-valkey avatarmod-moderate avatarmod-io avatarmod-api)

extras=
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
        -h | --help) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) fail "$1 is not known; see --help" ;;
    esac
    shift
done

[ "$(id -u)" = 0 ] || fail "run this as root: sudo $0"
extras=${extras:-$(cat "$EXTRAS" 2>/dev/null || echo all)}
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
    see_it_run
}

# What is wrong with the settings ends a service seconds after its start.
see_it_run() {
    local failed
    for _ in 1 2 3 4; do
        failed=$(systemctl list-units --state=failed --plain --no-legend 'avatarmod-*' | cut -d' ' -f1 | xargs)
        [ -z "$failed" ] || fail "the code is in place, but $failed ended: journalctl -n 20 -u ${failed%% *}"
        if "$source_folder/deploy/avatarmod" doctor >/dev/null 2>&1; then return; fi
        sleep 3
    done
    say "Not everything is well yet; what: sudo avatarmod doctor"
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
    install -d -m 0755 "$ETC"
    # `avatarmod export` and `bundle install` write there; the services themselves cannot.
    install -d -m 0755 -o avatarmod -g avatarmod "$ETC/models"
    install -d -m 0700 "$ETC/secrets"
}

# The new code is complete before the old one stops; one rename changes over.
install_code() {
    local new=$PREFIX/releases/$(date -u +%Y%m%d-%H%M%S)
    install -d -m 0755 "$PREFIX/releases"
    say "Installing packages into $new (a few minutes) ..."
    python3 -m venv "$new"
    # The pip that comes with Python is as old as that Python.
    if ! "$source_folder/deploy/install-packages" "$new/bin/python" --upgrade pip ||
        ! "$source_folder/deploy/install-packages" "$new/bin/python" --use-pep517 \
            "$source_folder[$extras]"; then
        rm -rf "$new"
        fail "nothing was installed and nothing was changed"
    fi
    # It comes with older Pythons, as old as they are; nothing here needs it.
    "$new/bin/python" -m pip uninstall --quiet --yes setuptools 2>/dev/null || true
    ln -s "$("$new/bin/python" -c 'from worker.process.valkey import server_binary as b; print(b())')" \
        "$new/bin/valkey-server"
    "$new/bin/avatarmod" --version >/dev/null
    local old
    old=$(readlink "$PREFIX/bin" || true)
    if [ -n "$old" ]; then ln -sfn "${old%/bin}" "$PREFIX/previous"; fi
    ln -sfn "$new/bin" "$PREFIX/bin.new"
    mv -T "$PREFIX/bin.new" "$PREFIX/bin"
    echo "$extras" >"$EXTRAS"
    remove_old_code "$new"
}

remove_old_code() {
    local release previous
    previous=$(readlink "$PREFIX/previous" || true)
    for release in "$PREFIX"/releases/*; do
        if [ "$release" != "$1" ] && [ "$release" != "$previous" ]; then rm -rf "$release"; fi
    done
}

# Without it one model judges alone, which the workers say when they start.
install_second_model() {
    AVATARMOD_MODELS_FOLDER=$ETC/models "$PREFIX/bin/avatarmod" bundle install --optional image-safety-s >&2
}

write_settings() {
    if [ ! -e "$ETC/avatarmod.env" ]; then
        install -m 0600 /dev/null "$ETC/avatarmod.env"
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
    # `avatarmod init` writes it; the services themselves see /etc read-only.
    chown avatarmod:avatarmod "$ETC/avatarmod.env"
    if [ ! -e "$ETC/secrets/callback_secrets" ]; then
        (umask 077 && python3 -c 'import base64, secrets
print("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())' >"$ETC/secrets/callback_secrets")
    fi
    [ -e "$ETC/valkey.conf" ] || install -m 0644 "$source_folder/deploy/systemd/valkey.conf" "$ETC/"
}

# Runs as the service's user with its settings and secrets. A file of that name that is not ours stays.
install_command() {
    if [ -e "$COMMAND" ] && ! grep -qs '/opt/avatarmod/bin/avatarmod' "$COMMAND"; then
        say "$COMMAND is somebody else's and stays; ours is $source_folder/deploy/avatarmod."
        return
    fi
    install -D -m 0755 "$source_folder/deploy/avatarmod" "$COMMAND"
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
    if grep -qs '/opt/avatarmod/bin/avatarmod' "$COMMAND"; then rm -f "$COMMAND"; fi
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
        install_second_model
        install_units
        install_command
        restart
        say "Installed $("$PREFIX/bin/avatarmod" --version)."
        say "Secret of the callbacks, for the web tier: $ETC/secrets/callback_secrets"
        if systemd_runs && [ "$start" = yes ]; then
            say "Next: sudo avatarmod keys create web; sudo avatarmod users add NAME; sudo avatarmod doctor"
        elif systemd_runs; then
            say "Not started, as asked: systemctl enable --now avatarmod.target"
        else
            say "Not started: systemd does not run here. By hand, as root, until the machine stops:"
            say "  install -d -m 0700 -o avatarmod -g avatarmod /run/avatarmod"
            say "  setpriv --reuid=avatarmod --regid=avatarmod --init-groups \\"
            say "      /opt/avatarmod/bin/valkey-server /etc/avatarmod/valkey.conf &"
            say "  avatarmod up"
        fi
        ;;
esac
