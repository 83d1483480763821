# The example host, as the deploy `production`.
{
  imports = [
    ../../examples/host.nix
    ../../examples/production.nix
  ];
}
