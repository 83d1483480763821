{
  lib,
  stdenv,
  rustPlatform,
  redis,
  testers,
  # What the release says it was built from: the flake passes its revision.
  commit ? "unknown",
}:

let
  inherit (lib) fileset;
  root = ../.;
in
rustPlatform.buildRustPackage (finalAttrs: {
  pname = "abukiks";
  inherit ((lib.importTOML ../Cargo.toml).package) version;

  # What the build and its tests read. An edit of anything else builds nothing anew.
  src = fileset.toSource {
    inherit root;
    fileset = fileset.unions [
      (fileset.maybeMissing ../.env.example)
      ../Cargo.lock
      ../Cargo.toml
      ../admin
      ../completions
      ../man
      (fileset.maybeMissing ../benches)
      ../src
      ../systemd
      ../tests
    ];
  };

  cargoLock.lockFile = ../Cargo.lock;

  env.ABUKIKS_COMMIT = commit;

  # The messages of panics name source files. Let none of them tell where this build ran: neither
  # its folder, which is not the same on every machine, nor the toolchain, which would become a
  # dependency. Flags for a `cfg` are added to those of nixpkgs; RUSTFLAGS, be it empty, would replace them.
  postPatch = ''
    [[ -n ''${RUSTFLAGS-} ]] || unset RUSTFLAGS
    mkdir -p .cargo
    cat >> .cargo/config.toml <<END
    [target.'cfg(all())']
    rustflags = [
      "--remap-path-prefix=$NIX_BUILD_TOP=/abukiks",
      "--remap-path-prefix=$(rustc --print sysroot)=/rust",
    ]
    END
  '';

  # The same script as on any other distribution fills in where things are. A DESTDIR, be it the
  # root, tells it to leave the running system alone.
  postInstall = ''
    mv $out/bin built
    export BUILD=built DESTDIR=/ PREFIX=$out
    sh systemd/install.sh install
  '';

  # As the profile in Cargo.toml has it: nixpkgs puts its own stripping in the place of Cargo's.
  stripAllList = [
    "bin"
    "libexec"
  ];

  postFixup = ''
    if grep --recursive --text --quiet "$NIX_BUILD_TOP/\(source\|cargo-vendor-dir\)" $out; then
      echo "a program tells where it was built"
      exit 1
    fi
  '';

  # The tests take longer than the build, and none of them looks at the commit. So they are a derivation
  # of their own, which is built once for all commits, variants and overrides: see passthru.tests.
  doCheck = false;

  passthru.commit = commit;
  passthru.tests = {
    version = testers.testVersion { package = finalAttrs.finalPackage; };
  }
  # They look at processes and networks as only Linux has them.
  // lib.optionalAttrs stdenv.hostPlatform.isLinux {
    # The promises that a redis-server and the loopback are enough for. The others boot a systemd, cut
    # networks, build again; `make test` runs all.
    promises = finalAttrs.finalPackage.overrideAttrs (old: {
      pname = "abukiks-promises";
      env = old.env // {
        ABUKIKS_COMMIT = "unknown";
      };
      # The tests build the programs that they run, with the profile of the release.
      dontBuild = true;
      doCheck = true;
      nativeCheckInputs = [ redis ];
      checkFlags = map (promise: "${promise}::") [
        "activation"
        "admin"
        "batching"
        "config"
        "counting"
        "durability"
        "framing"
        "going_back"
        "http"
      ];
      installPhase = "touch $out";
      postInstall = "";
      postFixup = "";
    });
  };

  meta = {
    description = "Twelve-factor visitor counter, the model service for Rust, Nix and systemd";
    homepage = "https://github.com/abukiks/abukiks";
    changelog = "https://github.com/abukiks/abukiks/blob/v${finalAttrs.version}/CHANGELOG.md";
    license = lib.licenses.mit;
    maintainers = [ ];
    mainProgram = "abukiks";
    platforms = lib.platforms.linux ++ lib.platforms.darwin;
  };
})
