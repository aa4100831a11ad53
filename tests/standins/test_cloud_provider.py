"""The behaviour of the official plugins and clouds that the stand-ins reproduce: each line of their RULES.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from local import faults
from local.paths import ROOT
from standins.providers import alicloud, volcengine
from standins.providers.alicloud.alicloud_plugin import ARMS_RULE
from standins.providers.alicloud.alicloud_plugin import Provider as Alicloud
from standins.providers.cloud import Cloud, CloudError
from standins.providers.cloud_provider import RETRY_VARIABLE, CloudProvider
from standins.providers.volcengine.volcengine_plugin import VMP_RULE
from standins.providers.volcengine.volcengine_plugin import Provider as Volcengine
from standins.providers.wire import UNKNOWN, Secret, plain
from tests.support.cloud_plugin import Made, Plugin, Refused

STATEMENT = [{"Effect": "Allow", "Action": ["GetObject"], "Resource": ["*"]}]


@dataclass(frozen=True, eq=False)
class Words:
    """A cloud's names for things. `missing` and `taken` are error codes that contain the kind's name."""

    provider: type[CloudProvider]
    package: Any
    region: str
    owner: str
    bucket: str
    setting: str
    block: dict[str, Any]
    service: str
    bucket_name: str
    user_name: str
    secret: str
    document: str
    missing: str
    taken: str
    keys_full: str
    has_key: str
    has_policy: str
    no_keys: str

    @property
    def tokens(self) -> dict[str, str]:
        kinds = ("User", "Policy", "UserPolicyAttachment", "AccessKey")
        return {kind: f"{self.service}/{kind[0].lower()}{kind[1:]}:{kind}" for kind in kinds}


FORCE = "You can force the deletion of the user by setting force equals true."
ALI = Words(
    provider=Alicloud,
    package=alicloud,
    region="cn-hangzhou",
    owner="1000000000000001",
    bucket="alicloud:oss/bucket:Bucket",
    setting="alicloud:oss/bucketPublicAccessBlock:BucketPublicAccessBlock",
    block={"blockPublicAccess": True},
    service="alicloud:ram",
    bucket_name="bucket",
    user_name="name",
    secret="secret",
    document=json.dumps({"Version": "1", "Statement": STATEMENT}),
    missing="EntityNotExist.{}",
    taken="EntityAlreadyExists.{}",
    keys_full="LimitExceeded.User.AccessKey",
    has_key=FORCE,
    has_policy=FORCE,
    no_keys="no valid credential sources for Terraform Alibaba Cloud Provider found",
)
VOLC = Words(
    provider=Volcengine,
    package=volcengine,
    region="cn-beijing",
    owner="2100000001",
    bucket="volcengine:tos/bucket:Bucket",
    setting="volcengine:tos/bucketEncryption:BucketEncryption",
    block={"rule": {"applyServerSideEncryptionByDefault": {"sseAlgorithm": "AES256"}}},
    service="volcengine:iam",
    bucket_name="bucketName",
    user_name="userName",
    secret="secretAccessKey",
    document=json.dumps({"Statement": STATEMENT}),
    missing="{}NotExist",
    taken="{}AlreadyExists",
    keys_full="AccessKeyLimitExceeded",
    has_key="UserDeleteConflictWithAccessKey",
    has_policy="UserDeleteConflictWithPolicy",
    no_keys="access_key and secret_key are required",
)
ACL = "alicloud:oss/bucketAcl:BucketAcl"
BOTH = pytest.mark.parametrize("words", [ALI, VOLC], ids=["alicloud", "volcengine"])


class Place:
    """A plugin, and its cloud as seen from outside the plugin."""

    def __init__(self, words: Words, plane: Path) -> None:
        self.words, self.plane = words, plane
        self.plugin = Plugin(words.provider, words.region)
        self.file = plane / "cloud" / "cloud.json"

    def tables(self) -> dict[str, Any]:
        return json.loads(self.file.read_text()) if self.file.exists() else {}

    def change(self, **tables: Any) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps({**self.tables(), **tables}))

    def bucket(self, name: str = "weights", **arguments: Any) -> Made:
        return self.plugin.create(self.words.bucket, **{self.words.bucket_name: name, **arguments})

    def setting(self) -> Made:
        self.bucket()
        return self.plugin.create(self.words.setting, **{self.words.bucket_name: "weights"}, **self.words.block)

    def user(self, name: str = "reader") -> Made:
        return self.plugin.create(self.words.tokens["User"], **{self.words.user_name: name})

    def policy(self, **arguments: Any) -> Made:
        given = {"policyName": "read", "policyDocument": self.words.document, **arguments}
        return self.plugin.create(self.words.tokens["Policy"], **given)

    def attach(self, user: str = "reader") -> Made:
        given = {"userName": user, "policyName": "read", "policyType": "Custom"}
        return self.plugin.create(self.words.tokens["UserPolicyAttachment"], **given)

    def attached(self) -> Made:
        self.user(), self.policy()
        return self.attach()

    def key(self) -> Made:
        return self.plugin.create(self.words.tokens["AccessKey"], userName="reader")

    def users_key(self) -> Made:
        self.user()
        return self.key()


@pytest.fixture(autouse=True)
def plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODELSERVE_CLOUD", str(tmp_path / "cloud"))
    monkeypatch.setenv(RETRY_VARIABLE, "0")
    for words in (ALI, VOLC):
        for names in words.provider.key_variables:
            monkeypatch.setenv(names[0], "rehearsal")
    return tmp_path


@pytest.fixture
def place(words: Words, plane: Path) -> Place:
    return Place(words, plane)


def refusal(request: Any, *given: Any, **arguments: Any) -> str:
    with pytest.raises(Refused) as told:
        request(*given, **arguments)
    return str(told.value)


@pytest.mark.parametrize(
    "words, token, arguments, problem",
    [
        (ALI, ACL, {"bucket": "weights"}, 'Missing required argument. The argument "acl" is required'),
        (ALI, ALI.bucket, {"bucket": "weights", "bukket": 1}, "Invalid or unknown key. Examine values at 'r.bukket'"),
        (ALI, ALI.bucket, {"bucket": "weights", "storageClass": "Warm"}, 'one of ["Standard" "IA"'),
        (VOLC, VOLC.bucket, {"bucketName": "weights", "publicAcl": "open"}, 'one of ["private" "public-read"'),
        (VOLC, VOLC.setting, {"bucketName": "weights"}, 'The argument "rule" is required'),
    ],
)
def test_wrong_arguments_are_refused_by_name(place: Place, token: str, arguments: dict[str, Any], problem: str):
    (told,) = place.plugin.check(token, **arguments)
    assert problem in told


@BOTH
def test_a_preview_makes_nothing_and_knows_no_secret(place: Place, words: Words):
    made = place.plugin.create(words.tokens["AccessKey"], preview=True, userName="reader")
    assert made.outputs[words.secret] == Secret(UNKNOWN) and place.tables() == {}


@pytest.mark.parametrize(
    "words, before, after, differs",
    [
        (ALI, {}, {"storageClass": "IA"}, {"storageClass": True}),
        (ALI, {"tags": {"a": "1"}}, {"tags": {"a": "2"}}, {"tags": False}),
        (ALI, {"tags": {"a": "1"}}, {}, {"tags": False}),
        (ALI, {}, {}, {}),
        (VOLC, {}, {"azRedundancy": "multi-az"}, {"azRedundancy": True}),
        (VOLC, {}, {"storageClass": "IA"}, {"storageClass": False}),
    ],
)
def test_what_cannot_change_in_place_is_replaced(
    place: Place, words: Words, before: dict[str, Any], after: dict[str, Any], differs: dict[str, bool]
):
    bucket = place.bucket(**before)
    assert place.plugin.diff(bucket, **{words.bucket_name: "weights"}, **after) == differs
    assert place.plugin.diff(bucket, list(differs), **{words.bucket_name: "weights"}, **after) == {}


@BOTH
def test_a_bucket_tells_what_the_cloud_made_up(place: Place, words: Words):
    made, suffix = place.bucket(), {ALI: "oss-cn-hangzhou-internal.aliyuncs.com", VOLC: "tos-cn-beijing.ivolces.com"}
    assert made.id == "weights" and made.outputs["intranetEndpoint"] == suffix[words]
    assert {"creationDate", "extranetEndpoint", "location"} <= made.outputs.keys()
    assert place.plugin.read(made) == made.outputs


@BOTH
def test_a_bucket_name_that_is_none_or_taken_is_refused(place: Place, words: Words):
    for name in ("Weights-1", "weights_1", "weights-"):
        assert "InvalidBucketName" in refusal(place.bucket, name)
    other = {"owner": VOLC.owner if words is ALI else ALI.owner, "region": words.region}
    place.change(buckets={"weights": other})
    assert "BucketAlreadyExists" in refusal(place.bucket)
    place.change(buckets={})
    place.bucket()
    own = {ALI: 'The specified bucket name: "weights" is not available.', VOLC: "BucketAlreadyExists"}
    assert own[words] in refusal(place.bucket)


@BOTH
def test_a_bucket_goes_when_it_is_empty(place: Place):
    made = place.bucket()
    (place.plane / "cloud" / "buckets" / "weights" / "object").write_text("weights")
    assert "BucketNotEmpty" in refusal(place.plugin.delete, made)
    (place.plane / "cloud" / "buckets" / "weights" / "object").unlink()
    place.plugin.delete(made)
    assert not place.tables()["buckets"]


@pytest.mark.parametrize(
    "words, owner, region, told",
    [
        (ALI, VOLC.owner, ALI.region, "AccessDenied"),
        (ALI, ALI.owner, "cn-beijing", "must be addressed using the specified endpoint oss-cn-beijing.aliyuncs.com"),
        (VOLC, ALI.owner, VOLC.region, ": \n\tstatus code: 403"),
        (VOLC, VOLC.owner, "cn-shanghai", ": \n\tstatus code: 404"),
    ],
)
def test_a_bucket_elsewhere_cannot_be_used(place: Place, words: Words, owner: str, region: str, told: str):
    made = place.bucket()
    place.change(buckets={"weights": {**place.tables()["buckets"]["weights"], "owner": owner, "region": region}})
    assert told in refusal(place.plugin.read, made)


@BOTH
def test_a_setting_needs_its_bucket_and_goes_with_its_resource(place: Place, words: Words):
    given = {words.bucket_name: "weights", **words.block}
    assert "NoSuchBucket" in refusal(place.plugin.create, words.setting, **given)
    made = place.setting()
    place.plugin.delete(made)
    bucket = place.tables()["buckets"]["weights"]
    assert "encryption" not in bucket and not bucket.get("blockPublicAccess")


@pytest.mark.parametrize("words", [ALI])
def test_a_list_is_one_that_there_is_and_not_public_while_that_is_blocked_and_outlives_its_resource(place: Place):
    place.setting()
    for acl, told in (("open", "InvalidArgument"), ("public-read", "Put public bucket acl is not allowed")):
        assert told in refusal(place.plugin.create, ACL, bucket="weights", acl=acl)
    place.plugin.delete(place.plugin.create(ACL, bucket="weights", acl="private"))
    assert place.tables()["buckets"]["weights"]["acl"] == "private"


@BOTH
def test_names_of_users_and_policies_are_taken_once_and_wanted_by_an_attachment(place: Place, words: Words):
    assert words.missing.format("User") in refusal(place.attach)
    place.user()
    assert words.missing.format("Policy") in refusal(place.attach)
    place.policy()
    assert words.taken.format("User") in refusal(place.user)
    assert words.taken.format("Policy") in refusal(place.policy)
    assert place.attach().id in ("reader:read:Custom", "user:read:Custom:reader")
    for document in ("{}", "no JSON"):
        assert "PolicyDocument" in refusal(place.policy, policyName="other", policyDocument=document)


@BOTH
def test_a_user_has_two_keys_and_stays_while_it_has_any_or_a_policy(place: Place, words: Words):
    user, keys = place.user(), [place.key(), place.key()]
    assert words.keys_full in refusal(place.key)
    assert words.has_key in refusal(place.plugin.delete, user)
    for key in keys:
        place.plugin.delete(key)
    place.policy()
    place.attach()
    assert words.has_policy in refusal(place.plugin.delete, user)


@BOTH
def test_a_secret_is_told_once_and_secretly(place: Place, words: Words):
    made = place.users_key()
    ((key_id, key),) = place.tables()["keys"].items()
    assert made.id == key_id and made.outputs[words.secret] == Secret(key["secret"])
    assert place.plugin.read(made)[words.secret] == Secret(key["secret"])
    known = replace(made, outputs={k: v for k, v in made.outputs.items() if k != words.secret})
    assert key["secret"] not in str(plain(place.plugin.read(known)))


@pytest.mark.parametrize("words", [ALI])
def test_a_policys_versions_run_out_unless_they_rotate_and_hold_it_unless_it_is_forced(place: Place):
    made, last = place.policy(), place.words.document.replace("*", "acs:oss:*:*:last")
    for number in range(4):
        changed = place.words.document.replace("*", f"acs:oss:*:*:b{number}")
        made.outputs = place.plugin.update(made, policyName="read", policyDocument=changed)
    given = {"policyName": "read", "policyDocument": last}
    assert "LimitExceeded.Policy.Version" in refusal(place.plugin.update, made, **given)
    rotating = {"rotateStrategy": "DeleteOldestNonDefaultVersionWhenLimitExceeded"}
    made.outputs = place.plugin.update(made, **given, **rotating)
    assert list(place.tables()["policies"]["read"]["versions"]) == ["v2", "v3", "v4", "v5", "v6"]
    assert "DeleteConflict.Policy.Version" in refusal(place.plugin.delete, made)
    place.user()
    place.attach()
    assert "DeleteConflict.Policy.User" in refusal(place.plugin.delete, made)
    made.outputs["force"] = True
    place.plugin.delete(made)
    assert not place.tables()["policies"] and not place.tables()["attachments"]


@pytest.mark.parametrize("words", [VOLC])
def test_a_policy_that_a_user_has_stays(place: Place):
    place.user()
    policy = place.policy()
    attachment = place.attach()
    assert "DeleteConflict" in refusal(place.plugin.delete, policy)
    place.plugin.delete(attachment)
    place.plugin.delete(policy)


ROLE = "alicloud:ram/role:Role"
TRUST = json.dumps(
    {"Version": "1", "Statement": [{"Action": "sts:AssumeRole", "Effect": "Allow", "Principal": {"a": 1}}]}
)


@pytest.mark.parametrize("words", [ALI])
def test_a_role_without_trust_is_refused_and_one_with_policies_stays_unless_forced(place: Place):
    for document in ("nothing", "{}", json.dumps({"Version": "1", "Statement": STATEMENT})):
        said = refusal(place.plugin.create, ROLE, roleName="writer", assumeRolePolicyDocument=document)
        assert "MalformedPolicyDocument" in said
    made = place.plugin.create(ROLE, roleName="writer", assumeRolePolicyDocument=TRUST)
    assert "EntityAlreadyExists.Role" in refusal(
        place.plugin.create, ROLE, roleName="writer", assumeRolePolicyDocument=TRUST
    )
    given = {"roleName": "writer", "policyName": "read", "policyType": "Custom"}
    attachment = "alicloud:ram/rolePolicyAttachment:RolePolicyAttachment"
    assert "EntityNotExist.Policy" in refusal(place.plugin.create, attachment, **given)
    place.policy()
    assert place.plugin.create(attachment, **given).id == "role:read:Custom:writer"
    assert "DeleteConflict.Role.Policy" in refusal(place.plugin.delete, made)
    made.outputs["force"] = True
    place.plugin.delete(made)
    assert not place.tables()["roles"] and not place.tables()["attachments"]


KINDS = ("bucket", "setting", "user", "policy", "attached", "users_key")


@BOTH
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_gone_leaves_the_state_or_fails_as_the_official_plugin_has_it(place: Place, words: Words, kind: str):
    made = getattr(place, kind)()
    place.file.write_text("{}")
    if words is ALI or kind == "user":
        assert place.plugin.read(made) is None
    else:
        told = refusal(place.plugin.read, made)
        assert f'"{made.id}", error on  reading  resource "{made.id}", ' in told
        assert {"bucket": ": \n\tstatus code: 404", "setting": "NoSuchBucket"}.get(kind, "not exist") in told
    # Deleting an object that is already gone fails if the plugin does not, or cannot, look first.
    if kind in {ALI: {"setting"}, VOLC: {"user", "users_key"}}[words]:
        assert refusal(place.plugin.delete, made)
    else:
        place.plugin.delete(made)


@BOTH
def test_an_unknown_access_key_lets_the_plugin_forget_what_is_there(
    place: Place, words: Words, monkeypatch: pytest.MonkeyPatch
):
    made = {"setting": place.setting(), "attached": place.attached(), "users_key": place.key()}
    made |= {"bucket": Made(words.bucket, "weights", {}, {}), "policy": Made(words.tokens["Policy"], "read", {}, {})}
    user = next(iter(place.tables()["users"].values()))["id"] if words is ALI else "reader"
    made["user"] = Made(words.tokens["User"], user, {}, {})
    monkeypatch.setenv(words.provider.key_variables[0][0], "denied")
    denied, before = Plugin(words.provider, words.region), place.file.read_text()
    read, deleted = set(), set()
    for kind, resource in made.items():
        try:
            assert denied.read(resource) is None
            read.add(kind)
        except Refused as error:
            assert "InvalidAccessKey" in str(error) or "status code: 403" in str(error)
        try:
            denied.delete(resource)
            deleted.add(kind)
        except Refused as error:
            assert "InvalidAccessKey" in str(error) or "status code: 403" in str(error)
    ours = {"user", "policy", "attached", "users_key"}
    assert read == {ALI: ours, VOLC: {"user"}}[words]
    assert deleted == {ALI: ours, VOLC: {"setting", "policy", "attached"}}[words]
    assert "InvalidAccessKey" in refusal(denied.create, words.tokens["User"], **{words.user_name: "other"})
    assert place.file.read_text() == before


@BOTH
@pytest.mark.parametrize("missing", [0, 1])
def test_without_credentials_no_plugin_is_configured(words: Words, missing: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(words.provider.key_variables[missing][0], "")
    assert words.no_keys in refusal(Plugin, words.provider, words.region)


def test_a_region_that_is_none_is_refused_by_the_one_plugin_and_found_nowhere_by_the_other(plane: Path):
    assert "Invalid Alibaba Cloud region: cn-hangzou. You can skip" in refusal(Plugin, Alicloud, "cn-hangzou")
    assert Plugin(Alicloud, "").provider._region == "cn-beijing"
    place = Place(replace(VOLC, region="cn-bejing"), plane)
    assert "lookup weights.tos-cn-bejing.volces.com: no such host" in refusal(place.bucket)
    place.user()


@pytest.mark.parametrize(
    "words, kind, name, code",
    [
        (ALI, "Bucket", "weights", "AccessDenied"),
        (ALI, "User", "reader", "NoPermission"),
        (VOLC, "Bucket", "weights", "AccessDenied"),
        (VOLC, "Policy", "read", "AccessDenied"),
    ],
)
def test_a_fault_takes_a_permission_away_until_it_is_gone(place: Place, kind: str, name: str, code: str):
    faults.put(place.plane, kind, name, "denied")
    assert code in refusal(getattr(place, kind.lower()))
    faults.put(place.plane, kind, name, None)
    getattr(place, kind.lower())()


class Stubborn:
    """A deletion that the cloud refuses this many times before it succeeds."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self, cloud: Cloud, name: str, state: dict[str, Any]) -> None:
        if self.left:
            self.left -= 1
            raise CloudError("in the way")


@pytest.mark.parametrize(
    "words, kind, patient",
    [(ALI, kind, kind == "policy") for kind in KINDS]
    + [(VOLC, kind, kind not in ("user", "users_key")) for kind in KINDS],
)
def test_a_refused_deletion_is_tried_again_by_patient_plugins_until_their_patience_ends(
    place: Place, kind: str, patient: bool, monkeypatch: pytest.MonkeyPatch
):
    made, deletion = getattr(place, kind)(), Stubborn(3)
    kinds = place.plugin.provider.kinds
    monkeypatch.setitem(kinds, made.token, replace(kinds[made.token], delete=deletion))
    assert "in the way" in refusal(place.plugin.delete, made)
    monkeypatch.setenv(RETRY_VARIABLE, "60")
    if patient:
        place.plugin.delete(made)
    else:
        assert "in the way" in refusal(place.plugin.delete, made)
    assert deletion.left == (0 if patient else 1)


@BOTH
def test_a_type_that_the_stand_in_lacks_is_named_and_every_other_is_in_the_rules(place: Place, words: Words):
    name = words.provider.name
    told = refusal(place.plugin.create, f"{name}:vpc/vpc:Vpc")
    assert f"has no {name}:vpc/vpc:Vpc: standins/providers/{name}/RULES.md" in told
    rules = Path(words.package.__file__).with_name("RULES.md").read_text()
    assert [token for token in words.provider.kinds if token.rpartition(":")[2] not in rules] == []


@pytest.mark.parametrize(
    ("words", "token", "given", "changed"),
    [
        (ALI, ARMS_RULE, {"clusterId": "c1", "prometheusAlertRuleName": "a", "duration": "1"}, {"duration": "2"}),
        (VOLC, VMP_RULE, {"name": "a", "query": {"promQl": "up"}}, {"query": {"promQl": "down"}}),
    ],
)
def test_an_alert_rule_has_an_id_of_its_own_is_replaced_listed_and_forgotten_when_it_is_gone(
    place: Place, token: str, given: dict[str, Any], changed: dict[str, Any]
):
    one, other = place.plugin.create(token, **given), place.plugin.create(token, **given)
    assert one.id != other.id and place.tables()["rules"].keys() == {one.id, other.id}
    assert place.plugin.diff(one, **given | changed) == dict.fromkeys(changed, True)
    place.plugin.delete(other)
    assert place.plugin.read(other) is None and place.plugin.read(one)
    place.plugin.delete(other)


@BOTH
def test_a_plugin_starts_without_the_sdk(words: Words):
    code = "import importlib, sys; from standins.providers import grpc_server; grpc_server.skip_sdk(); "
    plugin = f"{words.package.__name__}.{words.provider.name}_plugin"
    code += f"importlib.import_module('{plugin}'); print('pulumi.output' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout == "False\n"


def test_who_changes_the_cloud_at_once_loses_nothing(plane: Path):
    code = (
        "import sys; from pathlib import Path; from standins.providers.cloud import opened\n"
        "for i in range(40):\n"
        "    with opened(Path(sys.argv[1]), 'cn-hangzhou') as cloud:\n"
        "        cloud.users[f'{sys.argv[2]}-{i}'] = {'id': '1'}\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(plane / "cloud"), who], cwd=ROOT) for who in "abc"]
    assert [process.wait() for process in running] == [0, 0, 0]
    file = plane / "cloud" / "cloud.json"
    assert len(json.loads(file.read_text())["users"]) == 120
    assert os.stat(file).st_mode & 0o077 == 0
