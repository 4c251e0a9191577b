#!/bin/sh
# One line that says what to install, before pip says it in a hundred.
set -eu
fail() { echo "lmx: $1" >&2; exit 1; }
[ -n "${PYTHON:-}" ] || fail "Python 3.11 or newer is needed; install it (macOS: brew install python, Debian: apt install python3 python3-venv)"
"$PYTHON" -c 'import venv, ensurepip' 2>/dev/null || command -v uv >/dev/null 2>&1 || fail "$PYTHON lacks venv; install it (Debian: apt install python3-venv)"
case "$(uname -s)" in
Darwin)
  arch=$("$PYTHON" -c 'import platform; print(platform.machine())')
  if [ "$arch" != arm64 ]; then
    [ "$(sysctl -n hw.optional.arm64 2>/dev/null || echo 0)" = 1 ] && fail "$PYTHON is an x86-64 Python on an Arm Mac; install an arm64 one (brew install python, in /opt/homebrew)"
    fail "MLX needs Apple Silicon; this Mac has an Intel processor"
  fi
  major=$(sw_vers -productVersion | cut -d. -f1)
  [ "$major" -ge 14 ] || fail "MLX needs macOS 14 or newer; this is $(sw_vers -productVersion)"
  ;;
Linux)
  case "$(uname -m)" in x86_64 | aarch64) ;; *) fail "MLX has no wheels for $(uname -m)" ;; esac
  libc=$("$PYTHON" -c 'import platform; print("%s %s" % platform.libc_ver())')
  case "$libc" in
  glibc*)
    "$PYTHON" -c 'import platform, sys; v = platform.libc_ver()[1].split("."); sys.exit((int(v[0]), int(v[1])) < (2, 35))' ||
      fail "MLX's wheels need glibc 2.35 or newer; this is $libc (Debian 12, Ubuntu 22.04 or newer have it)"
    ;;
  *) fail "MLX's wheels need glibc; this system has another C library" ;;
  esac
  ;;
*) fail "LMX runs on macOS (Apple Silicon) and Linux" ;;
esac
