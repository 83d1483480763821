# The OCI image: the programs, certificate authorities, a user, and nothing else.
{
  lib,
  runCommand,
  writeTextDir,
  symlinkJoin,
  dockerTools,
  cacert,
  abukiks,
  commit,
  # When that commit was made, as YYYYMMDDhhmmss.
  date,
}:

let
  # `--read-only`, `--cap-drop=all` and any other user suit as well: nothing here is written to or owned.
  user = 65532;
  port = 5000;

  users = symlinkJoin {
    name = "abukiks-users";
    paths = [
      (writeTextDir "etc/passwd" ''
        root:x:0:0:root:/:/bin/false
        abukiks:x:${toString user}:${toString user}:Abukiks:/:/bin/false
      '')
      (writeTextDir "etc/group" ''
        root:x:0:
        abukiks:x:${toString user}:
      '')
    ];
  };

  # Real files, no links into the store. That it may refer to nothing proves that there is no shell,
  # no libc and no toolchain in the image: a program that needed one would name it by its path.
  root = runCommand "abukiks-root" { allowedReferences = [ ]; } ''
    install -D --target-directory=$out/bin ${abukiks}/bin/abukiks ${abukiks}/libexec/abukiks/*
    install -D --mode=0444 ${cacert}/etc/ssl/certs/ca-bundle.crt $out/etc/ssl/certs/ca-certificates.crt
    install -D --mode=0444 --target-directory=$out/etc ${users}/etc/passwd ${users}/etc/group
  '';

  part = from: length: builtins.substring from length date;
  created = "${part 0 4}-${part 4 2}-${part 6 2}T${part 8 2}:${part 10 2}:${part 12 2}Z";
in
dockerTools.buildLayeredImage {
  name = "abukiks";
  # The tag is the hash of what went in: another content, another tag.
  tag = null;
  inherit created;
  # The same date on every file, whatever the commit: a layer changes with its content only.
  mtime = "1970-01-01T00:00:01Z";

  includeStorePaths = false;
  extraCommands = "cp --recursive --no-preserve=ownership ${root}/. .";

  config = {
    Entrypoint = [ "/bin/abukiks" ];
    User = "${toString user}:${toString user}";
    WorkingDir = "/";
    ExposedPorts."${toString port}/tcp" = { };
    StopSignal = "SIGTERM";
    Env = [
      # Inside, every address is the container's own.
      "HOST=0.0.0.0"
      "PORT=${toString port}"
      # Ends before the ten seconds after which container engines kill.
      "DRAIN_TIMEOUT=8s"
    ];
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
