"""What the page about network isolated clusters needs of the Azure CLI beyond its core: --outbound-type block.

This is Cloister's own extension. It has the name of Microsoft's, since the page asks for that one, and nothing of
its code. It takes core's `aks create` and `aks update` and widens the two places that refuse the value.
"""
from azure.cli.command_modules.acs import ContainerServiceCommandsLoader
from azure.cli.command_modules.acs._params import outbound_types
from azure.cli.core.commands.parameters import get_enum_type

BLOCK = "block"
COMMANDS = ("aks create", "aks update")


def accept_block():
    """Lets the value through the check behind the parser, once however often this is loaded."""
    from azure.cli.command_modules.acs.managed_cluster_decorator import AKSManagedClusterContext as Context

    refuses = Context._get_outbound_type
    if getattr(refuses, "accepts_block", False):
        return

    def _get_outbound_type(self, *args, **kwargs):
        if self.raw_param.get("outbound_type") == BLOCK:
            return BLOCK
        return refuses(self, *args, **kwargs)

    _get_outbound_type.accepts_block = True
    Context._get_outbound_type = _get_outbound_type


class Commands(ContainerServiceCommandsLoader):
    """Core's loader, of which two commands are taken."""

    def load_command_table(self, args):
        accept_block()
        super().load_command_table(args)
        for name in [name for name in self.command_table if name not in COMMANDS]:
            del self.command_table[name]
        return self.command_table

    def load_arguments(self, command):
        super().load_arguments(command)
        with self.argument_context(command) as c:
            c.argument("outbound_type", arg_type=get_enum_type([*outbound_types, BLOCK]))


COMMAND_LOADER_CLS = Commands
