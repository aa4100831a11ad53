"""How an operation on an object fails: the words for the user."""

from __future__ import annotations

from local.providers.kubernetes.client import Manifest, NoMatch, Unreachable
from local.providers.reporting import Refusal

_ALREADY_EXISTS_HELP = """

The resource already exists in the cluster. This can happen when:

  - Renaming a Pulumi resource: use an alias to preserve the identity,
    or use deleteBeforeReplace if the resource needs replacement.
  - Managing an existing resource: use a Patch resource (e.g. NamespacePatch)
    to manage specific fields without owning the resource lifecycle.
  - Adopting a resource into Pulumi: use `pulumi import`. Note that
    protected resources (e.g. kube-system) cannot be deleted on destroy.
  - Intentional upsert: set upsertExistingObjects on the provider to allow
    server-side apply to update existing objects on create."""
CREATED = 'resource "{urn}" was successfully created, but the Kubernetes API server reported that it'
UPDATED = 'the Kubernetes API server reported that "{id}"'
CONFLICT = """\
server-side apply field conflict detected, see https://www.pulumi.com/registry/packages/kubernetes/how-to-guides/\
managing-resources-with-server-side-apply/#handle-field-conflicts-on-existing-resources for troubleshooting help
The resource managed by field manager "{manager}" had an apply conflict: {error}"""
DELETE_HINT = (
    "If the cluster was deleted, you can remove this resource from Pulumi state by rerunning the operation with the "
    'PULUMI_K8S_DELETE_UNREACHABLE environment variable set to "true"'
)


def not_created(urn: str, manifest: Manifest, error: Refusal) -> Refusal:
    if isinstance(error, Unreachable):
        return error
    if isinstance(error, NoMatch):
        return Refusal(
            f'creation of resource "{urn}" with kind {manifest["apiVersion"]}/{manifest["kind"]} failed because the '
            "Kubernetes API server reported that the apiVersion for this resource does not exist. Verify that any "
            f"required CRDs have been created: {error}"
        )
    text = f'resource "{urn}" was not successfully created by the Kubernetes API server: {error}'
    return Refusal(text + (_ALREADY_EXISTS_HELP if error.reason == "AlreadyExists" else ""))


def not_live(what: str, error: Refusal) -> list[str]:
    first, *others = error.reasons
    return [f"{what} failed to fully initialize or become live: {first}", *others]
