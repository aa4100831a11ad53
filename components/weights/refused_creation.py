"""Says which thing of the cloud a refused request was about.

Owns one line of output. The plugins name a resource by its id, and it has none before it is created: their own line
reads `error on creating tos bucket "", …`.
"""

from __future__ import annotations

import pulumi

_NAMES = ("bucketName", "bucket", "policyName", "userName", "name")


def named(component: str) -> pulumi.ResourceHookBinding | None:
    """Hooks for every resource of a component of this name; none in a preview, which creates nothing."""
    if pulumi.runtime.is_dry_run():
        return None
    return pulumi.ResourceHookBinding(on_error=[pulumi.ErrorHook(f"{component}-refused", _tell)])


def _tell(args: pulumi.ErrorHookArgs) -> bool:
    pulumi.log.error(sentence(args))
    return False  # no retry by Pulumi: the next `up` tries again


def sentence(args: pulumi.ErrorHookArgs) -> str:
    """What failed, by the name that it has in the cloud."""
    inputs = args.new_inputs or args.old_inputs or {}
    own = next((inputs[key] for key in _NAMES if inputs.get(key)), args.name)
    kind = args.type.rpartition(":")[2]
    return f"{kind} {own}: the cloud refused to {args.failed_operation} it; its reason is in the error of {args.name}"
