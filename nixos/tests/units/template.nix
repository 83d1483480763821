# What the template adds to a machine.
{
  imports = [ ../../template/counter.nix ];
}
