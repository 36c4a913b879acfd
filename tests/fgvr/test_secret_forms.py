"""What is a secret by its form or its place, and what only sounds like one: names of species, products and files."""

import base64
from pathlib import Path

import open_clip
import pytest
import yaml

from fgvr.config import ConfigError, build, to_yaml
from fgvr.config.load import as_given
from fgvr.redact import MASK, is_secret_name, masked, masked_tree, masked_value, masked_words

NAMES = Path(__file__).parents[2] / "benchmarks" / "quality" / "names"
RANDOM = "Qz7xK9fLm2Vb8Rt4"  # as random as keys are; no key of anybody
HEX = "0f3a9c7b" * 8

SOUND_LIKE_SECRETS = """
Asian_koel | asiatic_wild_ass_00012.jpg | /mnt/ASIA/2024/img_1.jpg | ASIANPALMCIVETPHOTOS | AKIA
AKIAPOLAAU.jpg
SK-77120-NAVY-M | sk-77120-navy-m | sk-proj | sk-ant-colony-close-up-12.png | sk-8mm-film-roll-2020
Sk_live_show.jpg
/models/hf_llava-onevision-7b-ft | hf_captioned_birds_2024 | hf_superb_starling | ghp_logo.png
github_pat_sticker.jpg
Bearer of bad news | bearer fish 12345678 | Basic Black 1234567890 | basic cotton-crew-neck-2024 | Token Toad
Token_ring_adapter.jpg | token ring: IBM | Secret: Dare to Dream | Victoria's Secret: Body Mist
Secret Garden
Signature: Levis | signature_bag_01.jpg | password_manager.png | Password: the card game | passwd_box-12.jpg
key lime pie | key = value | sort_key: name | public_key=mallard | Skeleton key: brass
keyboard: Logitech K120
Authorization letter | Authorization: required | cookie: chocolate chip | Cookie, oatmeal | Set of cookies: 12
credentials holder, blue | AIzawl_market.jpg | AIza | eyJafjallajokull.jpg | eyJa.jpg
glpat-terns-and-gulls.png
xoxo-gossip-girl-season-2 | npm_fish.jpg | r8_audi.jpg | xai-xai-waterfall.jpg | pk_test_pattern.png | dapifer_spider
photo@2x.png | s3://bucket/photos/heron@2x.png | https://site.example/@user/photo.jpg
/photos/user:pass@home/a.jpg
https://host.example:8443/a@b/c.jpg | file://C:/photos/me@home.jpg | heron;policy brief.jpg
{"eos_token": "</s>", "pad_token": "<pad>"} | {image_token: <image>} | max_tokens=12 | stop token: 151643
mllm.api_key: there is no such field | mllm.api_key: extra inputs are not permitted | OPENAI_API_KEY: not set
ask for a token: see docs/security.md | api_key: null | --label.max_tokens 32 | -----BEGIN CERTIFICATE-----
sk-test-image20240817.jpg | sk-live-concert2024night.jpg | sk-or-portland2024summer | sk-20240817T123456abc.jpg
/data/ghp_GreaterHoneyguidePhotos24 | ghs_greaterhoneyguidespecimens.jpg | npm_northernpintailmallardsdrakephoto2024
/data/sk-test-images20240817 | /data/sk_test_photo20240817123456 | pk_live_IMG20240817123456.jpg
/data/glpat-terns-and-gulls-of-2024 | gldt-long-tailed-duck-2024-08-17.jpg
glpat-terns-and-gulls-of-2024-w.24.winter2024
r8_redshankandgreenshankphotos20240817 | xai-2024waterfallphotographyofsummerholiday.jpg
dckr_pat_docker-pattern-photos-2024. | nvapi-northern-vireos-and-pipits-of-2024-in-winter
tgp_v1_two-greater-plovers-and-pipits-of-2024
12345678:AAbirds-and-bees-in-the-garden-photos1 | AIzaSyllabus2024-and-notes-for-birders1
/data/q;key=birds | /data/a&code=7.d | q?sig=letters.jpg | heron;pass=2&auth=mill.jpg
https://img.example/get?key=species/mallard.jpg | https://img.example/get?code=SK-100234-BLACK&size=l
https://img.example/get?key=photos/2024/IMG20240817123456.jpg
/photos/bearer photo20240101morning.jpg | Standard bearer IMG20231201123456.jpg | 'bearer photo20240101morning.jpg'
http://[::1]:8000/photos/me@b/heron.jpg | http://[2001:db8::1]/photos/me@b/heron.jpg
Top-Secret: Operation | Victorias_Secret: Body Mist | subway_token: mallard | master_key: mallard | Trade-Token: Silver
/data/secret=garden/heron.jpg | /data/class=Token/secret=x/heron.jpg | /data/token=1/heron.jpg
{"image_break_token": "[IMG_BREAK]", "img_context_token": "<IMG_CONTEXT>"} | {newline_token: NL, fake_token: <fake>}
classifier_from_token: [no, yes]
sk-or-2024-collection-winter | sk-live-rock-2023-albumcover.jpg | r8_gordini_racing_1968_model_blue_pic
gsk_museum_of_technology_wing_1902_photo.jpg | hf_InternVL3MiniFinetuned2025
/srv/models/hf_llama3vision11binstruct/weights | Bearer 2024-collection-of-insects | bearer of the olympic flame
machine shop | -u birds/all.jpg:2
"""

SECRETS = f"""
machine h.example login me password {RANDOM} | curl -u me:{RANDOM} http://h | curl --user "me:{RANDOM}" http://h
Illegal header value b'Bearer {RANDOM}ab' | /jobs/token={RANDOM}/log
https://hooks.slack.com/services/T0123456/B0123456/{RANDOM}
https://discord.example/api/webhooks/123456789012345678/{RANDOM}-{RANDOM}
aws_secret_access_key = {RANDOM} | aws_secret_access_key: {RANDOM} | aws_session_token={RANDOM}
AWS_SECRET_ACCESS_KEY="{RANDOM}"
aws_access_key_id = {RANDOM} | SecretAccessKey: {RANDOM} | client_secret: {RANDOM} | clientSecret={RANDOM}
client-secret = '{RANDOM}'
"client_secret": "{RANDOM}" | 'token' : '{RANDOM}' | {{"a": 1, "accessToken":"{RANDOM}"}}
{{hf_token: {RANDOM}, seed: 1}}
\\"api_key\\": \\"{RANDOM}\\" | api_key: {RANDOM} | apiKey={RANDOM} | openai_api_key => {RANDOM}
x.secret := {RANDOM}
password = {RANDOM} | the password: {RANDOM} is wrong | PGPASSWORD={RANDOM} | MYSQL_PWD={RANDOM}
passphrase: "{RANDOM}"
--password {RANDOM} | --api-key={RANDOM} | --hf-token {RANDOM} | token: {RANDOM} | secret: {RANDOM}
private_key={RANDOM}
Authorization: Token {RANDOM} | Authorization: Bearer {RANDOM} | authorization: bearer {RANDOM}
Authorization: {RANDOM}
'Authorization': 'Basic {RANDOM}' | (b'Authorization', b'Bearer {RANDOM}')
curl -H "Authorization: ApiKey {RANDOM}" http://h
Proxy-Authorization: Basic {RANDOM} | X-Api-Key: {RANDOM} | Private-Token: {RANDOM}
Cookie: session={RANDOM}; theme=dark
Authorization: AWS4-HMAC-SHA256 Credential={RANDOM}/2026/eu/s3/aws4_request, SignedHeaders=host, Signature={RANDOM}
https://b.example/a.jpg?X-Amz-Signature={RANDOM}&part=1 | https://b.example/a.jpg?X-Goog-Signature={RANDOM}
see ?sig={RANDOM}
https://b.example/a?se=2026&sig={RANDOM}&sp=r | https://b.example/?access_token={RANDOM}
https://b.example/a?Policy={RANDOM}
https://me:{RANDOM}@host/x | https://{RANDOM}@host/x | mongodb+srv://me:{RANDOM}@host/db
s3://key:{RANDOM}/{RANDOM}@bucket/a.jpg
Server=db;Uid=me;pwd={RANDOM};x=1 | Server=db;Pwd={RANDOM} | Server=db;Password={RANDOM}
{{'api_key': SecretStr('{RANDOM}')}} | password=SecretStr('{RANDOM}') | token=SecretBytes(b'{RANDOM}')
https://me:{RANDOM}@[::1]:8000/x | http://{RANDOM}@[2001:db8::1]/x | https://h.example/a;v=1?key={RANDOM}
https://h.example/api?code={RANDOM}%3D%3D | https://h.example/get?key={HEX[:32]}{RANDOM} | /data/q;key={RANDOM}
some_other_API_KEY={RANDOM} | GRAFANA_TOKEN={RANDOM} | id_token={RANDOM} | oauth2_token: {RANDOM}
AccountName=a;AccountKey={RANDOM}==;EndpointSuffix=x | SharedAccessKey={RANDOM}
"""

KEYS = f"""
AKIAQ3EGTKLM7PWXYZAB | ASIAQ3EGTKLM7PWXYZAB | github_pat_11ABCDEFG0{RANDOM}_{RANDOM * 3}abcde
ghp_{RANDOM * 2}abcd
gho_{RANDOM * 2}abcd | glpat-{RANDOM}abcd | hf_{RANDOM * 2}ab | hf_AbCdEfGhIjKlMnOpQrStUvWxYzAbCdEfGh
AIza{RANDOM * 2}abc
sk-ant-api03-{RANDOM}-{RANDOM}AA | sk-proj-{RANDOM}_{RANDOM} | sk-{RANDOM * 3} | sk-or-v1-{HEX}
xoxb-123456789012-{RANDOM}
xoxp-1234567890-1234567890-{HEX} | sk_live_{RANDOM}ab | rk_test_{RANDOM}ab | npm_{RANDOM * 2}abcd
glsa_{RANDOM * 2}_0f3a9c7b | shpat_{HEX[:32]} | dckr_pat_{RANDOM}{RANDOM[:11]} | glpat-{RANDOM * 2}-Ab.01.0a1b2c3d4
nvapi-{RANDOM * 2}-{RANDOM * 2} | gloas-{HEX} | ghs_{RANDOM * 2}abcd | whsec_test_{RANDOM * 2}
dapi{HEX[:32]}
SG.{RANDOM}abcdef.{RANDOM * 2}abcdefghijk | ya29.{RANDOM * 3} | GOCSPX-{RANDOM}abcdefghijkl | gsk_{RANDOM * 3}
r8_{RANDOM * 2}abcde | 8123456789:AAE{RANDOM * 2} | hf_{RANDOM}aB3cD
eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.{RANDOM * 2}abc
"""


def table(text: str) -> list[str]:
    return [entry.strip() for line in text.strip().splitlines() for entry in line.split(" | ")]


def real_names() -> list[str]:
    files = [line for file in sorted(NAMES.glob("*.txt")) for line in file.read_text().splitlines()]
    return [*files, *open_clip.IMAGENET_CLASSNAMES]


def test_no_name_of_a_species_or_a_product_is_masked():
    names = real_names()
    assert len(names) > 3000
    for name in names:
        spellings = [name, name.replace(" ", "_"), name.upper(), name.lower().replace(" ", "-") + "-0123.jpg"]
        for shown in (*spellings, f"/data/{spellings[1]}/{spellings[3]}", f"s3://bucket/{spellings[1]}.png"):
            assert masked(shown) == shown


@pytest.mark.parametrize("name", table(SOUND_LIKE_SECRETS))
def test_what_only_sounds_like_a_secret_stays(name):
    assert masked(name) == name
    assert masked_value(name) == name
    assert masked_tree({"path": name, "label": [name]}) == {"path": name, "label": [name]}


@pytest.mark.parametrize("text", table(SECRETS))
def test_a_value_in_a_secrets_place_is_masked(text):
    found = masked(f"before {text}, after")
    assert RANDOM not in found
    assert MASK in found
    assert found.startswith("before ")
    assert masked(found) == found


@pytest.mark.parametrize("key", table(KEYS))
def test_a_key_of_a_known_form_is_masked_wherever_it_stands(key):
    for text in (f"no such key: {key}.", f"/data/{key}/a.jpg", f"({key})", key):
        assert masked(text) == masked_value(text) == text.replace(key, MASK)


def test_the_form_of_a_key_is_exact():
    """The same letters in other cases or another number are a name."""
    assert masked("AKIAQ3EGTKLM7PWXYZABC") == "AKIAQ3EGTKLM7PWXYZABC"
    assert masked("akiaq3egtklm7pwxyzab") == "akiaq3egtklm7pwxyzab"
    assert masked("XAKIAQ3EGTKLM7PWXYZAB") == "XAKIAQ3EGTKLM7PWXYZAB"
    assert masked("SK-PROJ-" + RANDOM.upper()) == "SK-PROJ-" + RANDOM.upper()


@pytest.mark.parametrize("kind", ["RSA PRIVATE KEY", "OPENSSH PRIVATE KEY", "PRIVATE KEY", "PGP PRIVATE KEY BLOCK"])
def test_private_keys_are_masked_whole_and_cut_ones_to_the_end(kind):
    body = base64.b64encode(RANDOM.encode() * 9).decode()
    whole = f"key:\n-----BEGIN {kind}-----\n{body}\n{body}\n-----END {kind}-----\nand more"
    assert body not in masked(whole)
    assert masked(whole).endswith("\nand more")
    assert body[:9] not in masked(whole[: whole.index("-----END")])
    escaped = f'"private_key": "-----BEGIN {kind}-----\\n{body}\\n-----END {kind}-----\\n"'
    assert body not in masked(escaped)


def test_what_is_called_a_secret():
    secret = (
        "password db.password hf_token AWS_SECRET_ACCESS_KEY aws_access_key_id clientSecret apiKey api-key accountkey"
    )
    assert all(map(is_secret_name, secret.split()))
    secret = "access_token id_token session_token bearer_token api_token auth_token refreshToken oauth2_token MY_TOKEN"
    assert all(map(is_secret_name, secret.split()))
    plain = "classifier_from_token image_break_token img_context_token newline_token fake_token subway_token"
    assert not any(map(is_secret_name, plain.split()))
    plain = "api_key_env max_tokens eos_token sort_key class_key public_key tokenizer passwords_file key id secretary"
    assert not any(map(is_secret_name, plain.split()))


def test_a_variable_whose_key_is_no_secret_masks_nothing(monkeypatch):
    for name, value in {
        "SORT_KEY": "species_name",
        "PRIMARY_KEY": "image_id",
        "BUCKET_KEY": "photos/2024/birds",
    }.items():
        monkeypatch.setenv(name, value)
        assert masked(f"s3://b/{value}/x") == f"s3://b/{value}/x"
    for name in ("WANDB_API_KEY", "SOME_KEY", "OPENAI_KEY", "MY_SECRET", "MY_TOKEN"):
        monkeypatch.setenv(name, RANDOM)
        assert masked(f"x-{RANDOM}-x") == f"x-{MASK}-x"
        monkeypatch.delenv(name)


def test_a_secret_that_is_a_word_masks_no_names(monkeypatch, tmp_path):
    (tmp_path / "key.pem").write_text("x")
    monkeypatch.setenv("DB_PASSWORD", "password")
    monkeypatch.setenv("TLS_KEY", str(tmp_path / "key.pem"))  # names the file that holds it
    monkeypatch.setenv("HF_TOKEN", "aSecret0fReal1ty")
    assert masked("password_manager_box.jpg") == "password_manager_box.jpg"
    assert masked(f"{tmp_path}/key.pem is missing") == f"{tmp_path}/key.pem is missing"
    assert masked("I said 'password', in XaSecret0fReal1tyX") == f"I said '{MASK}', in X{MASK}X"


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "part",
    [
        *("a=", "token=", "token: ", "a: ", "-----BEGIN PRIVATE KEY-----", "eyJ", "eyJaaaaaa.", "sk-ant-", "xoxb-"),
        *("Authorization: ", "authorization:x ", "?a=", "&sig=", "{token:", "--a ", "cookie:", "a@", "://a:b@", "'"),
        *("://a?sig=", "://?" * 900 + "'" + "&sig=x" * 60, "://[::1]:", "glpat-", "ghp_", "1:AA", ";pwd=", "x_token="),
    ],
)
def test_long_texts_of_strangers_come_back_soon(part):
    """What is quadratic would take hours."""
    text = part * (40_000 // len(part))
    assert len(masked(text)) <= len(text) + 8


NAMED_LIKE_SECRETS = {
    "run": {"folder": "/data/asian_street_photos", "name": "asiatic_bears"},
    "ingest": {"source": {"kind": "folder", "path": "/srv/SK-100234-BLACK-XL/hf_internvl-8b-finetuned"}},
    "mllm": {
        "kind": "vllm",
        "model": "/srv/models/hf_internvl-8b-finetuned",
        "engine_args": {
            "hf_overrides": {"image_token": "<image>", "eos_token": "</s>", "text": "Bearer fish: *** = x"}
        },
    },
}


def test_a_saved_config_is_read_back_as_it_was():
    config = build(NAMED_LIKE_SECRETS)
    assert build(yaml.safe_load(to_yaml(config))) == config
    assert yaml.safe_load(to_yaml(config)) == as_given(config)


@pytest.mark.parametrize(
    "tree",
    [
        {"label": {"prompt": "***"}},
        {"label": {"prompt": "What is it? *** Answer briefly. ***"}},
        {"ingest": {"source": {"kind": "folder", "path": "/data/***/photos"}}},
        {"ingest": {"source": {"kind": "folder", "path": "***"}}},
        {"ingest": {"source": {"kind": "folder", "path": "/data/glpat-terns-and-gulls-of-2024"}}},
        {"ingest": {"source": {"kind": "folder", "path": "/data/q;key=birds"}}},
        {"ingest": {"source": {"kind": "table", "path": "https://img.example/list.csv?code=birds"}}},
        {"mllm": {"kind": "vllm", "engine_args": {"hf_overrides": {"classifier_from_token": ["no", "yes"]}}}},
        {"mllm": {"kind": "vllm", "engine_args": {"hf_overrides": {"image_break_token": "[IMG_BREAK]"}}}},
        {
            "mllm": {
                "kind": "vllm",
                "engine_args": {"mm_processor_kwargs": {"fake_token": "<fake>", "newline_token": "|"}},
            }
        },
    ],
)
def test_a_saved_config_without_secrets_loses_nothing(tree):
    config = build(tree)
    assert build(yaml.safe_load(to_yaml(config))) == config


def test_a_secret_in_a_path_is_asked_for_and_a_mask_of_an_earlier_version_too(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", RANDOM)
    saved = to_yaml(build({"ingest": {"source": {"kind": "folder", "path": f"/data/{RANDOM}/***"}}}))
    assert RANDOM not in saved
    with pytest.raises(ConfigError, match=r"^ingest\.source\.path: \*\*\* stands for a secret"):
        build(yaml.safe_load(saved))
    earlier = {
        "tracking": {"uri": "https://***@mlflow.example"},
        "ingest": {"source": {"kind": "table", "path": "https://host/a.csv?sig=***"}},
        "mllm": {"engine_args": {"hf_token": "***"}},
    }
    with pytest.raises(ConfigError, match=r"^tracking\.uri, ingest\.source\.path, mllm\.engine_args\.hf_token: "):
        build(earlier)


def test_a_saved_config_names_each_field_that_lost_its_secret():
    config = build(
        {
            "ingest": {"source": {"kind": "table", "path": f"https://host/a.csv?sig={RANDOM}"}},
            "tracking": {"uri": f"https://me:{RANDOM}@mlflow.example"},
            "mllm": {"kind": "vllm", "engine_args": {"hf_token": RANDOM}},
        }
    )
    saved = to_yaml(config)
    assert RANDOM not in saved
    with pytest.raises(ConfigError) as caught:
        build(yaml.safe_load(saved))
    said = str(caught.value).partition(":")[0]
    assert set(said.split(", ")) == {"tracking.uri", "ingest.source.path", "mllm.engine_args.hf_token"}


def test_the_word_behind_a_secrets_flag_goes_whole():
    words = [
        "python",
        "full.py",
        "--mllm.engine_args.hf_token",
        "lemon tart",
        "--run.name",
        "token-ring",
        "--x.api_key",
    ]
    assert masked_words(words) == [*words[:3], "***", *words[4:]]
    kept = ["--ingest.source.class_key", "species", "--mllm.api_key_env", "MY_KEY", "--hf-token", "--plan"]
    assert masked_words(kept) == kept
    assert masked_words(["--hf-token=lemon", "--password", "x"]) == ["--hf-token=***", "--password", "***"]
    assert masked_words([]) == []


def test_the_rest_of_a_path_stays_where_a_folder_is_called_like_a_secret():
    shown = masked(f"/data/token={RANDOM}/2024/heron.jpg is not there")
    assert shown == "/data/token=***/2024/heron.jpg is not there"


def test_a_long_text_of_secret_names_takes_no_minutes():
    """Every value began a text of its own, each looked at letter by letter: 16 s for this one."""
    text = "token:" * 30_000
    assert masked(text) == text
