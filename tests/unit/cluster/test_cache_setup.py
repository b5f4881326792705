"""What all processes of a cluster are told of the prefix cache, and that its secret shows nowhere."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from tandem.cluster.cache_setup import prepare_cache
from tandem.cluster.config.model import ClusterConfig
from tandem.cluster.plan import plan_router, plan_workers
from tandem.cluster.programs.cache import cache_setup
from tandem.cluster.programs.config import RegistryTarget, RouterProgramConfig, WorkerProgramConfig
from tandem.cluster.programs.images import open_images
from tandem.core.clock import MonotonicClock
from tandem.core.errors import ConfigError
from tandem.core.ids import Epoch
from tandem.prefix_cache.config import SECRET_BYTES, PrefixCacheConfig, PrefixCacheProgram
from tandem.prefix_cache.remote.images import RemoteImages
from tandem.router.config import RouterConfig
from tandem.text.tokenizer import Tokenizer
from tests.fakes.tiny_tokenizer import save_tiny_tokenizer
from tests.unit.cluster.test_plan import MODEL

REDIS = RegistryTarget(kind="redis", url="redis://127.0.0.1:1/0")


def test_each_start_has_a_secret_of_its_own(tmp_path: Path) -> None:
    one, two = (prepare_cache(PrefixCacheConfig(), tmp_path).secret_bytes() for _ in range(2))
    assert one is not None
    assert len(one) == SECRET_BYTES
    assert one != two


def test_a_secret_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("0123456789abcdef\n")
    assert prepare_cache(PrefixCacheConfig(secret_file=file), tmp_path).secret_bytes() == b"0123456789abcdef"


@pytest.mark.parametrize(
    ("content", "problem"), [(None, "No such file"), ("short", "has 5 bytes"), ("x" * 5000, "5000")]
)
def test_a_bad_secret_file_is_named(tmp_path: Path, content: str | None, problem: str) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=problem) as caught:
        prepare_cache(PrefixCacheConfig(secret_file=file), tmp_path)
    assert "prefix_cache.secret_file" in str(caught.value)
    assert "xxxx" not in str(caught.value)


def test_public_texts_reach_every_process_as_the_same_tokens(tmp_path: Path) -> None:
    save_tiny_tokenizer(tmp_path)
    text = "hello world, hello tokens"
    settings = PrefixCacheConfig.model_validate({"public_prefixes": [{"text": text}, {"token_ids": [5, 6]}]})
    public = prepare_cache(settings, tmp_path).settings.public_token_ids()
    expected = tuple(Tokenizer.load(tmp_path).encode(text, add_special_tokens=False))
    assert [each.token_ids for each in public] == [expected, (5, 6)]


@pytest.mark.parametrize("section", [{}, {"text": "a", "token_ids": [1]}])
def test_a_public_prefix_has_one_form(section: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="one of the two"):
        PrefixCacheConfig.model_validate({"public_prefixes": [section]})


def test_the_secret_travels_in_the_line_for_stdin_and_nowhere_else(tmp_path: Path) -> None:
    config = ClusterConfig.model_validate({"model": {"source": "m"}})
    cache = prepare_cache(config.prefix_cache, tmp_path)
    secret = cache.secret_bytes()
    assert secret is not None
    router = plan_router(config, MODEL, REDIS, cache=cache)
    workers = plan_workers(config, MODEL, REDIS, cache=cache)
    assert {program.cache.secret_bytes() for program in workers} == {router.cache.secret_bytes()} == {secret}
    for program in (router, *workers):
        for shown in (repr(program), str(program), repr(program.model_dump())):
            assert secret.hex() not in shown
    line = router.model_dump_json(by_alias=True)
    assert secret.hex() in line
    assert RouterProgramConfig.model_validate_json(line) == router
    assert WorkerProgramConfig.model_validate_json(workers[0].model_dump_json()) == workers[0]
    assert secret.hex() not in config.model_dump_json()


def test_a_workers_part() -> None:
    told = PrefixCacheProgram.model_validate({"secret": "ab" * 16})
    made = cache_setup(told, Epoch(3))
    assert made is not None
    assert (made.secret, made.epoch, made.is_shared_secret) == (b"\xab" * 16, 3, True)
    alone = cache_setup(PrefixCacheProgram(), Epoch(3))
    assert alone is not None
    assert len(alone.secret) == SECRET_BYTES
    assert not alone.is_shared_secret
    assert cache_setup(PrefixCacheProgram(settings=PrefixCacheConfig(enabled=False)), Epoch(3)) is None


async def test_images_lie_in_the_redis_of_blocks_or_of_the_registry_and_need_a_secret() -> None:
    def program(
        *, registry: RegistryTarget = REDIS, secret: str | None = "00" * 32, **values: object
    ) -> RemoteImages | None:
        settings = PrefixCacheConfig.model_validate(values)
        cache = PrefixCacheProgram(settings=settings, secret=None if secret is None else SecretStr(secret))
        return open_images(
            RouterProgramConfig(router=router, cache=cache, model_folder=Path("/m"), registry=registry), clock
        )

    clock, router = MonotonicClock(), RouterConfig()
    nowhere = RegistryTarget(kind="router", address="127.0.0.1:1")
    elsewhere = {"url": "redis://127.0.0.1:2/0", "namespace": "other"}
    found = [program(), program(redis=elsewhere), program(registry=nowhere, redis=elsewhere)]
    assert [images and images.prefix for images in found] == ["tandem:index:", "other:index:", "other:index:"]
    for images in found:
        assert images is not None
        await images.close()
    assert program(registry=nowhere) is None
    assert program(secret=None) is None
    assert program(enabled=False) is None
    router = RouterConfig.model_validate({"cache": {"image": {"enabled": False}}})
    assert program() is None
