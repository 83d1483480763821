# All of Abukiks, with the admin processes beside it that need another attached resource than Redis. They are a crate
# of their own; the other programs are taken as they are.
{
  lib,
  rustPlatform,
  abukiks,
}:

rustPlatform.buildRustPackage {
  pname = "abukiks-attached";
  inherit (abukiks) version src;

  cargoRoot = "admin/attached";
  buildAndTestSubdir = "admin/attached";
  cargoLock.lockFile = ../admin/attached/Cargo.lock;

  env.ABUKIKS_COMMIT = abukiks.commit;

  # Paths in messages, and symbols: as there.
  inherit (abukiks)
    postPatch
    stripAllList
    postFixup
    ;

  postInstall = ''
    mv $out/bin built
    cp ${lib.getExe abukiks} ${abukiks}/libexec/abukiks/* built
    export BUILD=built DESTDIR=/ PREFIX=$out
    sh systemd/install.sh install
  '';

  # `make test` runs its tests: they need a redis-server, and the crate of the service built beside it.
  doCheck = false;

  meta = abukiks.meta // {
    description = "Abukiks with its admin processes for backups and reports";
    platforms = lib.platforms.linux;
  };
}
