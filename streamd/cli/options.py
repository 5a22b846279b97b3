"""Options that are keys of the configuration: what is wrong is said of the option."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import ValidationError

from streamd.config import RedisConfig, mask_url
from streamd.config.section import Section
from streamd.errors import ConfigError, Fault, RedisSetupError, SetupError

S = TypeVar("S", bound=Section)


def section_of(
    kind: type[S], values: dict[str, Any], names: Mapping[str, str] = MappingProxyType({})
) -> S:
    """`values` as a section of the configuration. Raises ConfigError, with passwords masked.

    `names` has what a key is called on the command line where that is not `--key`.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        wrong = error.errors()
        key = str(wrong[0]["loc"][0])
        said = (str(e["msg"]).removeprefix("Value error, ") for e in wrong if e["loc"][0] == key)
        what = "; or ".join(dict.fromkeys(message[:1].lower() + message[1:] for message in said))
        where = names.get(key, f"--{key.replace('_', '-')}")
        raise ConfigError([Fault(where, 0, "", f"{_shown(values[key])}: {what}")]) from None


def redis_of(url: str) -> RedisConfig:
    """The Redis of `--redis`, once it has answered.

    Raises ConfigError, RedisSetupError where it refuses, and SetupError where it is away.
    """
    config = section_of(RedisConfig, {"url": url}, {"url": "--redis"})
    from streamd.redis_client import check_redis  # noqa: PLC0415  # only where there is a URL

    try:
        away = check_redis(config)
    except RedisSetupError as error:
        raise RedisSetupError(f"--redis: {str(error).partition(': ')[2]}") from None
    if away:
        raise SetupError(f"--redis: {mask_url(url)}: {away}")
    return config


def _shown(value: object) -> str:
    """`value` without what may be a password, also where a URL lacks its scheme."""
    text = str(value)
    login, at, place = text.rpartition("@")
    return repr(f"***@{place}" if at and "://" not in login else mask_url(text))
