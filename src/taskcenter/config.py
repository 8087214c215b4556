"""Settings: CONTRACT.md §2. Environment variables, or a TOML file with the same names in lower case, without prefix.

A wrong value ends the start with one line that names the setting, the fault and an example, never with a traceback.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from taskcenter.errors import ConfigError

PREFIX: Final = "TASKCENTER_"
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Settings(BaseSettings):
    """Everything an operator can set. Field descriptions are the documentation (`docs/settings.md` is made of them)."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True, validate_default=True)

    database_url: SecretStr = Field(
        SecretStr("sqlite:///taskcenter.db"),
        description="Where tasks are kept: a SQLite file, or a MySQL 8.0+ / MariaDB 10.6+ database.",
        examples=["mysql://taskcenter:password@db.example:3306/taskcenter?ssl-mode=verify-full&ssl-ca=/etc/ssl/db.pem"],
    )
    bind: Annotated[tuple[str, ...], NoDecode] = Field(
        ("127.0.0.1:8080",),
        description="Addresses the API listens on, comma separated.",
        examples=["0.0.0.0:8080,[::]:8080"],
    )
    tls_cert: Path | None = Field(None, description="PEM chain for the API over TLS.", examples=["/etc/tls/api.pem"])
    tls_key: Path | None = Field(None, description="PEM key of `tls_cert`.", examples=["/etc/tls/api.key"])
    admin_token: SecretStr | None = Field(
        None,
        description="Authority over businesses. Generated on the first start and printed once when absent.",
        examples=["32 or more characters, e.g. from: openssl rand -hex 32"],
    )
    key_environment: str = Field(
        "live",
        pattern="^[a-z]{2,8}$",
        description="The middle of API keys, `tc_<environment>_…`. A key of another environment is refused.",
        examples=["staging"],
    )
    encryption_keys: SecretStr | None = Field(
        None,
        description="`id:base64(32 bytes)`, comma separated, newest first. Generated beside an embedded database.",
        examples=["k1:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="],
    )
    jwt_secret: SecretStr | None = Field(
        None,
        description="Signs the tokens we issue. Comma separated, newest first: the first signs, each verifies. "
        "Derived from the encryption keys when absent.",
        examples=["32 or more characters, e.g. from: openssl rand -hex 32"],
    )
    jwt_ttl: float = Field(3600, ge=1, le=86400, description="Life of an issued token, in s.", examples=["3600"])
    jwt_jwks: Path | None = Field(None, description="JWKS file of an external issuer whose tokens are accepted.")
    jwt_issuer: str | None = Field(None, description="The external issuer's `iss`.", examples=["https://id.example"])
    jwt_audience: str = Field("taskcenter", description="The `aud` a token must name.")
    jwt_business_claim: str = Field("taskcenter_business", description="The external token's claim with our code.")
    allowed_callback_networks: Annotated[tuple[Network, ...], NoDecode] = Field(
        (), description="CIDRs exempt from the ban on private addresses.", examples=["127.0.0.0/8,10.20.0.0/16"]
    )
    denied_callback_networks: Annotated[tuple[Network, ...], NoDecode] = Field(
        (), description="Further CIDRs that are never called.", examples=["203.0.113.0/24"]
    )
    denied_callback_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Host patterns that are never called.", examples=["*.internal.example"]
    )
    allowed_callback_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Host patterns that alone may be called; all when empty. The bans hold for these, too.",
        examples=["hooks.example.com,*.partner.example"],
    )
    allowed_callback_ports: Annotated[tuple[int, ...], NoDecode] = Field(
        (), description="Ports callbacks may go to; all when empty.", examples=["80,443,8443"]
    )
    callback_ca: Path | None = Field(None, description="PEM bundle that callbacks over TLS trust beside the system's.")
    retention_days: float = Field(90, gt=0, le=3650, description="Finished tasks, history and audit older are purged.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level logged.")
    log_format: Literal["json", "console"] | None = Field(
        None, description="`console` on a terminal, else `json`.", examples=["json"]
    )
    shutdown_grace: float = Field(20, ge=0, le=600, description="Time in-flight callbacks get at SIGTERM, in s.")
    max_in_flight: int = Field(
        2000,
        ge=1,
        le=100_000,
        description="Callbacks on their way at once, per process; of one business seven eighths of it at most. Fewer "
        "where the process may not open as many files (RLIMIT_NOFILE).",
    )
    business_memory: int = Field(
        64 * 1024 * 1024,
        ge=1024 * 1024,
        description="Bytes that the callbacks on their way of one business may hold, per process.",
        examples=["67108864"],
    )
    backlog_pace: float = Field(
        10.0,
        ge=0,
        le=1000,
        description=(
            "How fast tasks that became overdue in an outage, a pause or behind a breaker are let go, in due order: "
            "times the business's `rate_limit`, spread evenly. 10: a limit of 1000 a minute, a minute's worth in 6 s. "
            "Less than 1 may never catch up; 0: as fast as the limits allow."
        ),
        examples=["10.0"],
    )
    lease_ttl: float = Field(10, ge=3, le=300, description="Time after which a silent instance's shards move, in s.")
    peer_address: str = Field(
        "127.0.0.1:0",
        description="Where an instance's peers reach it with hints about tasks due now (UDP, sealed by the encryption "
        "keys): a numeric address of this machine and a port, 0 for any; further processes of the machine take the "
        "ports after it. The default serves the processes of one machine. Without hints such a task waits for its "
        "owner's next look, a second or so.",
        examples=["10.0.0.5:7070"],
    )
    db_pool_size: int = Field(8, ge=1, le=256, description="Connections for the API, per process (MySQL).")
    api_rate: float = Field(
        100, ge=0, le=100_000, description="API requests a business may send, per second and process; 0: no limit."
    )
    api_burst: int = Field(
        200, ge=1, le=1_000_000, description="API requests a business may send at once, per process."
    )
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode] = Field(
        (),
        description="CIDRs of proxies before the API, whose `X-Forwarded-For` tells the caller's address for audit, "
        "log and throttling.",
        examples=["10.0.0.0/8,192.0.2.10/32"],
    )
    alert_plugins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Functions told of every alert, comma separated: `module:function`, called with rule and text.",
        examples=["ops_alerts:page"],
    )
    metrics_require_admin: bool = Field(False, description="Ask for the admin token at `/metrics`.")
    max_body_bytes: int = Field(9 * 1024 * 1024, ge=1024, description="Largest request body, a batch included.")

    @field_validator("bind", "denied_callback_hosts", "allowed_callback_hosts", "alert_plugins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("allowed_callback_ports", mode="before")
    @classmethod
    def _ports(cls, value: Any) -> Any:
        parts = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        for part in parts if isinstance(parts, list) else ():
            if not str(part).isdecimal() or not 1 <= int(part) <= 65535:
                raise ValueError(f"{part!r} is no port from 1 to 65535")
        return parts

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _any_case(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError(f"{str(value).lower()} is no value for it")
        return value

    @field_validator("bind")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("names no address")
        for address in value:
            split_address(address)
        return value

    @field_validator("peer_address")
    @classmethod
    def _peer(cls, value: str) -> str:
        try:
            address = ipaddress.ip_address(split_address(value)[0])
        except ValueError:
            raise ValueError(f"{value!r} is not a numeric address and a port") from None
        if address.is_unspecified or address.is_multicast:
            raise ValueError(f"{value!r} is no address that others can send to")
        return value

    @field_validator("allowed_callback_networks", "denied_callback_networks", "trusted_proxies", mode="before")
    @classmethod
    def _networks(cls, value: Any) -> Any:
        parts = value.split(",") if isinstance(value, str) else value
        return tuple(ipaddress.ip_network(part.strip() if isinstance(part, str) else part) for part in parts if part)

    @field_validator("admin_token")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 16:
            raise ValueError("is shorter than 16 characters")
        return value

    @field_validator("key_environment")
    @classmethod
    def _no_admins(cls, value: str) -> str:
        if value == "admin":
            raise ValueError("is what the admin token begins with")
        return value

    @field_validator("jwt_secret")
    @classmethod
    def _secrets(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and any(len(part) < 16 for part in split_secrets(value.get_secret_value())):
            raise ValueError("is shorter than 16 characters")
        return value

    @field_validator("encryption_keys")
    @classmethod
    def _keys(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parse_encryption_keys(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _tls_pair(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("goes together with TASKCENTER_TLS_KEY; e.g. /etc/tls/api.pem and /etc/tls/api.key")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file, which arrives as init arguments."""
        return env_settings, init_settings


def load_settings(config: Path | None = None) -> Settings:
    """Settings from the environment and the TOML file `config`. Raises `ConfigError` with one line."""
    values: dict[str, Any] = {}
    if config is not None:
        try:
            values = tomllib.loads(config.read_text("utf-8"))
        except OSError as error:
            raise ConfigError(f"--config {config}: cannot be read: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"--config {config}: is not TOML: {error}") from None
        if unknown := sorted(set(values) - set(Settings.model_fields)):
            raise ConfigError(f'--config {config}: unknown setting {unknown[0]!r}, e.g. bind = "127.0.0.1:8080"')
    try:
        return Settings(**values)
    except ValidationError as error:
        raise ConfigError(_first_fault(error)) from None


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = str(fault["loc"][0]) if fault["loc"] else ""
    if not name:
        return f"{PREFIX}TLS_CERT: {fault['msg'].removeprefix('Value error, ')}"
    field = Settings.model_fields[name]
    example = (field.examples or [field.default])[0]
    return f"{PREFIX}{name.upper()}: {fault['msg'].removeprefix('Value error, ')}; e.g. {example}"


def split_address(address: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port` as a pair. Raises ValueError."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{address!r} is not host:port")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"{address!r}: an IPv6 address stands in brackets")
    return host.strip("[]"), int(port)


def split_secrets(text: str) -> list[str]:
    """Comma separated, newest first; an empty one stays, and is too short."""
    return [part.strip() for part in text.split(",")]


def parse_encryption_keys(text: str) -> tuple[tuple[str, bytes], ...]:
    """`id:base64(32 bytes)` pairs, newest first. Raises ValueError that shows no key."""
    keys = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        key_id, colon, encoded = part.partition(":")
        if not colon or not key_id.isalnum() or len(key_id) > 16:
            raise ValueError("a key is not id:base64, with an id of 1-16 letters and digits")
        try:
            key = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(f"key {key_id!r} is not base64") from None
        if len(key) != 32:
            raise ValueError(f"key {key_id!r} has {len(key)} bytes, not 32")
        keys.append((key_id, key))
    if not keys:
        raise ValueError("names no key")
    if len({key_id for key_id, _ in keys}) != len(keys):
        raise ValueError("names one id twice")
    return tuple(keys)
