"""TASKCENTER_DATABASE_URL: what is understood, and how each fault is told."""

import pytest

from taskcenter.errors import ConfigError
from taskcenter.store.url import MysqlUrl, SqliteUrl, parse_database_url


@pytest.mark.parametrize(
    "url,path",
    [
        ("sqlite:///taskcenter.db", "taskcenter.db"),
        ("sqlite:////var/lib/taskcenter/a.db", "/var/lib/taskcenter/a.db"),
        ("SQLite:///data/with%20blank%3F.db", "data/with blank?.db"),
        ("sqlite:///\u4efb\u52a1.db", "\u4efb\u52a1.db"),
    ],
)
def test_sqlite(url: str, path: str) -> None:
    assert parse_database_url(url) == SqliteUrl(path)


@pytest.mark.parametrize(
    "url,expected",
    [
        ("mysql://u:p@h/d", MysqlUrl("h", 3306, "u", "d", "p")),
        ("mariadb://u@h:3307/d", MysqlUrl("h", 3307, "u", "d", "")),
        ("mysql://u:@h/d", MysqlUrl("h", 3306, "u", "d", "")),
        ("mysql://u:p@[::1]:3307/d", MysqlUrl("::1", 3307, "u", "d", "p")),
        ("mysql://u%40x:p%2F%3A%23%40%3F%25@h/d%20e", MysqlUrl("h", 3306, "u@x", "d e", "p/:#@?%")),
        ("mysql://u:%C3%A9%E4%B8%AD@h/d", MysqlUrl("h", 3306, "u", "d", "\u00e9\u4e2d")),
        ("mysql://u:a:b@h/d", MysqlUrl("h", 3306, "u", "d", "a:b")),
        ("mysql://u:p@h/d?ssl-mode=VERIFY-FULL&ssl-ca=/a%20b.pem",
         MysqlUrl("h", 3306, "u", "d", "p", "verify-full", "/a b.pem")),
        ("mysql://u:p@h/d?ssl-ca=/a.pem", MysqlUrl("h", 3306, "u", "d", "p", "verify-ca", "/a.pem")),
        ("mysql://u:p@h/d?ssl-mode=required&ssl-cert=/c&ssl-key=/k",
         MysqlUrl("h", 3306, "u", "d", "p", "required", None, "/c", "/k")),
    ],
)  # fmt: skip
def test_mysql(url: str, expected: MysqlUrl) -> None:
    parsed = parse_database_url(url)
    assert parsed == expected
    assert isinstance(parsed, MysqlUrl)
    assert parsed.password == expected.password  # not part of a repr, but of equality


SECRET = "Hunter2"


@pytest.mark.parametrize(
    "url,fault",
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("taskcenter.db", "must begin with"),
        ("postgresql://u:Hunter2@h/d", "must begin with"),
        ("mysql+pymysql://u:Hunter2@h/d", "must begin with"),
        ("sqlite://taskcenter.db", "three slashes"),
        ("sqlite:taskcenter.db", "three slashes"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "lost at the first stop"),
        ("sqlite:///a.db?mode=ro", "takes no options"),
        ("sqlite:///a%00.db", "holds a NUL"),
        ("sqlite:///a\n.db", "control character"),
        ("mysql://u:Hunter2@h", "one database name"),
        ("mysql://u:Hunter2@h/", "one database name"),
        ("mysql://u:Hunter2@h/a/b", "one database name"),
        ("mysql://u:Hunter2@/d", "names no host"),
        ("mysql://h/d", "names no user"),
        ("mysql://:Hunter2@h/d", "names no user"),
        ("mysql://u:Hunter2@h:0/d", "port 0"),
        ("mysql://u:Hunter2@h:99999/d", "percent-encoded"),
        ("mysql://u:Hunter2@h:x/d", "percent-encoded"),
        ("mysql://u:a/Hunter2@h/d", "percent-encoded"),
        ("mysql://u:Hunter2@x@h/d", "percent-encoded"),
        ("mysql://u:a?Hunter2@h/d", "percent-encoded"),
        ("mysql://u:[Hunter2@h/d", "percent-encoded"),
        ("mysql://u:#Hunter2@h/d", "%23"),
        ("mysql://u:Hunter2 x@h/d", "blank"),
        ("mysql://u:%FFHunter2@h/d", "not UTF-8"),
        ("mysql://u:Hunter2%00@h/d", "holds a NUL"),
        ("mysql://u:Hunter2@h/d?ssl=1", "takes the options"),
        ("mysql://u:Hunter2@h/d?ssl-mode=on", "must be one of"),
        ("mysql://u:Hunter2@h/d?ssl-mode=", "without a value"),
        ("mysql://u:Hunter2@h/d?ssl-mode=required&ssl-mode=disabled", "twice"),
        ("mysql://u:Hunter2@h/d?ssl-mode=required&ssl-ca=/x", "not checked"),
        ("mysql://u:Hunter2@h/d?ssl-mode=preferred&ssl-ca=/x", "not checked"),
        ("mysql://u:Hunter2@h/d?ssl-key=/x", "needs ssl-cert"),
        ("mysql://u:Hunter2@h/d?ssl-mode=disabled&ssl-cert=/x", "not used"),
    ],
)
def test_every_fault_names_setting_fault_and_example_but_no_secret(url: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_database_url(url)
    message = str(caught.value)
    assert message.startswith("TASKCENTER_DATABASE_URL: ")
    assert fault in message
    assert "example: " in message
    assert "\n" not in message
    assert SECRET not in message
    assert caught.value.__cause__ is None


def test_the_password_is_in_no_text_form() -> None:
    url = parse_database_url(f"mysql://u:{SECRET}@[fe80::1]:3307/d")
    assert str(url) == "mysql://u:***@[fe80::1]:3307/d"
    assert SECRET not in repr(url) + str(url) + f"{url}" + repr([url])
    assert str(SqliteUrl("/a.db")) == "sqlite:////a.db"
