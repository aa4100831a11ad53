"""Says which cloud resource a failed request was about.

Owns one line of output. The plugins name a resource by its id, which it lacks before it is created: their own line
reads `error on creating tos bucket "", …`.
"""

from __future__ import annotations

import pulumi

_NAMES = ("bucketName", "bucket", "roleName", "policyName", "userName", "name")


def named(component: str) -> pulumi.ResourceHookBinding | None:
    """Hooks for every resource of the component; None in a preview, which creates nothing."""
    if pulumi.runtime.is_dry_run():
        return None
    return pulumi.ResourceHookBinding(on_error=[pulumi.ErrorHook(f"{component}-refused", _tell)])


def _tell(args: pulumi.ErrorHookArgs) -> bool:
    pulumi.log.error(sentence(args))
    return False  # Pulumi does not retry: the next `up` tries again


def sentence(args: pulumi.ErrorHookArgs) -> str:
    """What failed, by its name in the cloud."""
    inputs = args.new_inputs or args.old_inputs or {}
    name_in_cloud = next((inputs[key] for key in _NAMES if inputs.get(key)), args.name)
    kind = args.type.rpartition(":")[2]
    what = f"{kind} {name_in_cloud}"
    return f"{what}: the cloud refused to {args.failed_operation} it; its reason is in the error of {args.name}"
