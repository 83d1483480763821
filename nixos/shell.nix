# `nix develop`: all that `make test` needs.
{
  lib,
  stdenv,
  mkShell,
  abukiks,
  # Rust
  clippy,
  rust-analyzer,
  rustfmt,
  # lints
  deadnix,
  nixfmt,
  shellcheck,
  statix,
  # what the tests start, and look with
  binutils,
  chromedriver,
  chromium,
  curl,
  haproxy,
  iproute2,
  iptables,
  libfaketime,
  mmdebstrap,
  musl,
  nginx,
  openssl,
  podman,
  python3,
  redis,
  runc,
  strace,
  systemd,
  util-linux,
  valgrind,
  wrk,
  writeShellScriptBin,
}:

mkShell {
  inputsFrom = [ abukiks ];
  packages = [
    clippy
    deadnix
    nixfmt
    redis
    rust-analyzer
    rustfmt
    shellcheck
    statix
    binutils
    curl
    haproxy
    nginx
    openssl
    python3
    wrk
  ]
  ++ lib.optionals stdenv.hostPlatform.isLinux [
    chromedriver
    chromium
    iproute2
    iptables
    libfaketime
    mmdebstrap
    # Not all of musl's package: the compiler would find its headers.
    (writeShellScriptBin "musl-gcc" ''exec ${musl.dev}/bin/musl-gcc "$@"'')
    podman
    runc
    strace
    systemd
    util-linux
    valgrind
  ];
}
