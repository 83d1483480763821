# The example host, as the deploy `staging`.
{
  imports = [
    ../../examples/host.nix
    ../../examples/staging.nix
  ];
}
