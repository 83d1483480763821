# The OCI image: the programs, certificate authorities, a user, and nothing else.
{
  lib,
  runCommand,
  writeText,
  dockerTools,
  cacert,
  abukiks,
  commit,
  # When that commit was made, as YYYYMMDDhhmmss.
  date,
}:

let
  # `--read-only`, `--cap-drop=all` and any user suit: nothing in here is written to or owned.
  # All addresses are the container's own, so it listens on all; and it drains in less than the ten
  # seconds after which container engines kill.
  config = lib.importJSON ./image.json;
  user = lib.head (lib.splitString ":" config.User);

  passwd = writeText "passwd" ''
    root:x:0:0:root:/:/bin/false
    abukiks:x:${user}:${user}:Abukiks:/:/bin/false
  '';
  group = writeText "group" ''
    root:x:0:
    abukiks:x:${user}:
  '';

  # Real files, no links into the store. That they may refer to nothing proves that there is no shell,
  # no libc and no toolchain in the image: a program that needed one would name it by its path.
  root = runCommand "abukiks-root" { allowedReferences = [ ]; } ''
    install -D --target-directory=$out/bin ${abukiks}/bin/abukiks ${abukiks}/libexec/abukiks/*
    install -D --mode=0444 ${cacert}/etc/ssl/certs/ca-bundle.crt $out/etc/ssl/certs/ca-certificates.crt
    install --mode=0444 ${passwd} $out/etc/passwd
    install --mode=0444 ${group} $out/etc/group
  '';

  part = from: length: lib.substring from length date;
  created = "${part 0 4}-${part 4 2}-${part 6 2}T${part 8 2}:${part 10 2}:${part 12 2}Z";
in
dockerTools.buildLayeredImage {
  name = "abukiks";
  # The tag is a hash of what went in: another content, another tag.
  tag = null;
  inherit created;
  # The same date on every file, whatever the commit: a layer changes with its content alone.
  mtime = "1970-01-01T00:00:01Z";

  # A registry compresses layers itself, and Debian 12's podman loads no compressed archive.
  compressor = "none";

  includeStorePaths = false;
  extraCommands = "cp --recursive --no-preserve=ownership ${root}/. .";

  config = config // {
    Labels = {
      "org.opencontainers.image.title" = "abukiks";
      "org.opencontainers.image.description" = abukiks.meta.description;
      "org.opencontainers.image.version" = abukiks.version;
      "org.opencontainers.image.revision" = commit;
      "org.opencontainers.image.created" = created;
      "org.opencontainers.image.source" = abukiks.meta.homepage;
      "org.opencontainers.image.licenses" = abukiks.meta.license.spdxId;
    };
  };

  passthru = { inherit root; };
  meta = {
    inherit (abukiks.meta) license homepage;
    description = "OCI image of Abukiks";
    platforms = lib.platforms.linux;
  };
}
