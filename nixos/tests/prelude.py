# What the tests ask of a machine; it stands before each of their scripts.
import json


def show(machine, unit, name):
    return machine.succeed(f"systemctl show --property {name} --value '{unit}'").strip()


def invocation(machine, port):
    """It is another one after each start."""
    return show(machine, f"abukiks@{port}.service", "InvocationID")


def visit(machine, address):
    """The number that a visitor gets."""
    answer = machine.succeed(f"curl --fail --silent --globoff http://{address}/")
    return int(answer.rsplit(" ", 1)[1])


def status(machine, address):
    return machine.succeed(f"curl --silent --output /dev/null --write-out '%{{http_code}}' http://{address}")


def listens(machine, port):
    """The addresses at which a port is open."""
    sockets = machine.succeed(f"ss --tcp --listening --numeric --no-header 'sport = :{port}'")
    return [line.split()[3].rsplit(":", 1)[0] for line in sockets.splitlines()]


def assert_configured(machine, address, *settings, drop_ins=("abukiks@.service.d/overrides.conf",)):
    """Of files with one name systemd reads one, so that drop-ins can hide one another."""
    port = address.rsplit(":", 1)[1]
    unit = f"abukiks@{port}.service"
    paths = show(machine, unit, "DropInPaths").split()
    for drop_in in drop_ins:
        assert any(path.endswith(f"/{drop_in}") for path in paths), (drop_in, paths)
    environment = show(machine, unit, "Environment").split()
    for setting in settings:
        assert setting in environment, (setting, environment)
    # What runs was started with what the units say.
    version = json.loads(machine.succeed(f"curl --fail --silent --globoff http://{address}/version"))
    assert f"RELEASE={version['release']}" in environment, (version, environment)


def assert_declared(machine, address, *settings):
    """As above, and the instance has a drop-in of its own."""
    port = address.rsplit(":", 1)[1]
    own = f"abukiks@{port}.service.d/settings.conf"
    assert_configured(machine, address, *settings, drop_ins=("abukiks@.service.d/overrides.conf", own))


