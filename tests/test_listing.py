"""Lists: pages, sort order, filters, selected fields and links."""

from urllib.parse import quote, urlsplit

import pytest

from tests.conftest import PROJECTS, links


def names_in(response):
    assert response.status_code == 200, response.text
    return [item["name"] for item in response.json["items"]]


@pytest.fixture
def twelve_projects(make_project):
    return [make_project(name=f"project {n:02}", is_active=n % 3 != 0) for n in range(12)]


def test_an_empty_list_gets_a_page_without_items(client):
    assert client.get(PROJECTS).json == {
        "items": [],
        "total": 0,
        "page": 1,
        "page_size": 10,
        "next_cursor": None,
    }


def test_a_list_without_parameters_has_the_ten_newest(client, twelve_projects):
    response = client.get(PROJECTS)
    assert names_in(response) == [f"project {n:02}" for n in range(11, 1, -1)]
    assert response.json["items"][0] == twelve_projects[-1]
    assert (response.json["total"], response.json["page_size"]) == (12, 10)
    assert names_in(client.get(f"{PROJECTS}?page=2")) == ["project 01", "project 00"]


@pytest.mark.parametrize("page", [3, 2**31 - 1])
def test_a_page_past_the_end_gets_a_200_without_items(client, twelve_projects, page):
    response = client.get(f"{PROJECTS}?page={page}&page_size=100")
    assert (names_in(response), response.json["total"], response.json["page"]) == ([], 12, page)


@pytest.mark.parametrize(
    ("sort", "key", "reverse"),
    [
        ("name", lambda p: (p["name"], p["id"]), False),
        ("-name", lambda p: (p["name"], p["id"]), True),
        ("-updated_at", lambda p: (p["updated_at"], p["id"]), True),
        ("is_active,name", lambda p: (p["is_active"], p["name"], p["id"]), False),
    ],
)
def test_sort_orders_by_its_keys_and_then_by_id(client, twelve_projects, sort, key, reverse):
    items = client.get(f"{PROJECTS}?sort={sort}&page_size=100").json["items"]
    assert items == sorted(twelve_projects, key=key, reverse=reverse)


def test_sort_accepts_keys_of_both_directions(client, twelve_projects):
    items = client.get(f"{PROJECTS}?sort=-is_active,name&page_size=100").json["items"]
    assert items == sorted(twelve_projects, key=lambda p: (not p["is_active"], p["name"]))


@pytest.mark.parametrize("sort", ["created_at", "-created_at", "is_active"])
def test_pages_of_rows_with_equal_sort_values_have_every_row_once(
    client, sql, twelve_projects, sort
):
    sql("UPDATE projects SET created_at = '2026-01-01Z', is_active = true")
    ids = []
    for page in range(1, 7):
        response = client.get(f"{PROJECTS}?sort={sort}&page={page}&page_size=2")
        ids += [item["id"] for item in response.json["items"]]
    assert ids == sorted((p["id"] for p in twelve_projects), reverse=sort.startswith("-"))


def test_is_active_and_name_select_equal_values(client, twelve_projects):
    archived = client.get(f"{PROJECTS}?is_active=false&sort=name")
    assert names_in(archived) == ["project 00", "project 03", "project 06", "project 09"]
    assert archived.json["total"] == 4
    assert names_in(client.get(f"{PROJECTS}?name=project%2003")) == ["project 03"]
    assert names_in(client.get(f"{PROJECTS}?name=Project%2003")) == []
    assert names_in(client.get(f"{PROJECTS}?name=project%2003&is_active=true")) == []


@pytest.mark.parametrize("column", ["created_at", "updated_at"])
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("{0}[gte]=2026-01-02T00:00:00Z", "bcd"),
        ("{0}[gt]=2026-01-02T00:00:00Z", "cd"),
        ("{0}[lte]=2026-01-02T00:00:00Z", "ab"),
        ("{0}[lt]=2026-01-02T00:00:00.000000Z", "a"),
        ("{0}[gte]=2026-01-02T09:00:00%2B09:00&{0}[lt]=2026-01-04T00:00:00Z", "bc"),
        ("{0}[gte]=2026-01-02T09:00:00+09:00&{0}[lt]=2026-01-03T00:00:00Z", "b"),
        ("{0}[gt]=2026-01-01 23:59:59.999999-00:00&{0}[lt]=2026-01-02t00:00:00.000001z", "b"),
        ("{0}[gte]=0001-01-01T00:00:00Z&{0}[lt]=9999-12-31T23:59:59%2B23:59", "abcd"),
    ],
)
def test_a_time_range_selects_the_rows_within_it(
    client, make_project, sql, column, query, expected
):
    for day, name in enumerate("abcd", 1):
        make_project(name=name)
        sql(f"UPDATE projects SET {column} = %s WHERE name = %s", f"2026-01-0{day}Z", name)  # noqa: S608
    assert names_in(client.get(f"{PROJECTS}?sort=name&{query.format(column)}")) == list(expected)


def test_fields_selects_these_fields_and_the_id(client, make_project):
    project = make_project()
    response = client.get(f"{PROJECTS}?fields=updated_at,name")
    assert response.json["items"] == [
        {name: project[name] for name in ("id", "name", "updated_at")}
    ]
    assert client.get(f"{PROJECTS}?fields=id").json["items"] == [{"id": project["id"]}]


def test_links_lead_to_every_page_with_the_same_parameters(client, twelve_projects):
    since = "created_at[gt]=2026-01-01T00:00:00%2B09:00"
    url = f"{PROJECTS}?page_size=2&sort=name&is_active=true&{since}"
    visited = []
    while url:
        response = client.get(url)
        assert len(names_in(response)) == 2
        visited += names_in(response)
        urls = links(response)
        assert names_in(client.get(urls["first"])) == visited[:2]
        if "prev" in urls:
            assert names_in(client.get(urls["prev"])) == visited[-4:-2]
        url = urls.get("next")
    assert visited == [f"project {n:02}" for n in range(12) if n % 3]


def test_the_first_page_has_no_prev_link_and_the_last_no_next_link(client, twelve_projects):
    assert links(client.get(f"{PROJECTS}?page_size=12")).keys() == {"first"}
    assert links(client.get(f"{PROJECTS}?page_size=6")).keys() == {"first", "next"}
    assert links(client.get(f"{PROJECTS}?page_size=6&page=2")).keys() == {"first", "prev"}


# The name of the rows in the test below: 200 letters, each of nine bytes in a URL.
LONG_TEXT = quote("가" * 200)


@pytest.mark.parametrize(
    ("query", "relations"),
    [
        ("", {"first", "prev", "next"}),
        ("&created_at[gt]=2025-01-01T00:00:00Z", {"first", "prev", "next"}),
        (f"&q={quote('가' * 50)}", {"first", "prev", "next"}),
        (f"&q={quote('가' * 70)}", {"prev", "next"}),
        (f"&q={quote('가' * 150)}", {"next"}),
        (f"&q={LONG_TEXT}", {"next"}),
        (f"&q={LONG_TEXT}&owner={quote('가' * 25)}", set()),
        ('&attributes={"a":"' + "x" * 5000 + '"}', set()),
    ],
)
def test_links_that_exceed_2_kib_are_omitted(client, sql, query, relations):
    sql(
        "INSERT INTO projects (id, name, attributes, owner) SELECT gen_random_uuid(),"
        " repeat('가', 200), jsonb_build_object('a', repeat('x', 5000)), repeat('가', 25)"
        " FROM generate_series(1, 6)"
    )
    url = f"{PROJECTS}?page_size=2&page=2{query}"
    response = client.get(url)
    assert len(names_in(response)) == 2
    assert response.json["next_cursor"]
    assert len(f"Link: {response.headers.get('Link', '')}") <= 2048
    urls = links(response) if relations else {}
    assert urls.keys() == relations
    assert ("Link" in response.headers) == bool(relations)
    items = client.get(url.replace("page_size=2&page=2", "page_size=6")).json["items"]
    pages = {"first": items[:2], "prev": items[:2], "next": items[4:]}
    for relation, linked_url in urls.items():
        assert client.get(linked_url).json["items"] == pages[relation]


def test_links_begin_with_the_prefix_of_a_mounted_application(client, twelve_projects):
    for prefix, path in (("/backend", "/backend"), ("/번역", quote("/번역"))):
        environ = {"SCRIPT_NAME": prefix.encode().decode("latin-1")}
        response = client.get(f"{PROJECTS}?page_size=2&page=2", environ_overrides=environ)
        urls = links(response)
        assert urls.keys() == {"first", "prev", "next"}
        assert {urlsplit(url).path for url in urls.values()} == {path + PROJECTS}


def test_repeated_sort_parameters_are_joined(client, twelve_projects):
    expected = sorted(twelve_projects, key=lambda p: p["name"], reverse=True)
    expected.sort(key=lambda p: p["is_active"])
    for sort in ("sort=is_active,-name", "sort=is_active&sort=-name"):
        first = client.get(f"{PROJECTS}?{sort}&page_size=5")
        assert first.json["items"] == expected[:5]
        assert client.get(links(first)["next"]).json["items"] == expected[5:10]
        for other in ("sort=is_active,-name", "sort=is_active&page_size=5&sort=-name"):
            second = client.get(f"{PROJECTS}?{other}&cursor={first.json['next_cursor']}")
            assert second.json["items"][:5] == expected[5:10]
    three_keys = "sort=is_active&sort=-name,created_at"
    assert client.get(f"{PROJECTS}?{three_keys}&page_size=5").json["items"] == expected[:5]


def test_repeated_fields_parameters_are_joined(client, make_project):
    project = make_project()
    expected = [{name: project[name] for name in ("id", "name", "version")}]
    for query in ("name,version", "name&fields=version", "version&fields=id,name"):
        assert client.get(f"{PROJECTS}?fields={query}").json["items"] == expected


def test_owner_selects_equal_owners(client, sql, twelve_projects):
    sql("UPDATE projects SET owner = CASE WHEN is_active THEN 'alice' ELSE 'Alice' END")
    sql("UPDATE projects SET owner = NULL WHERE name = 'project 01'")
    response = client.get(f"{PROJECTS}?owner=Alice")
    assert names_in(response) == ["project 09", "project 06", "project 03", "project 00"]
    assert response.json["total"] == 4
    assert names_in(client.get(f"{PROJECTS}?owner=alice&sort=name&page_size=2")) == [
        "project 02",
        "project 04",
    ]
    assert names_in(client.get(f"{PROJECTS}?owner=Alice&name=project 03")) == ["project 03"]
    assert names_in(client.get(f"{PROJECTS}?owner=alice&q=project&is_active=false")) == []
    assert names_in(client.get(f"{PROJECTS}?owner=al")) == []


def test_owner_shows_only_rows_that_the_caller_sees_without_it(auth_client, auth_headers):
    alice, bob = auth_headers("alice"), auth_headers("bob")
    admin = auth_headers("carol", "projects:all")
    for headers, name in ((alice, "a"), (bob, "b"), (alice, "c")):
        auth_client.post(PROJECTS, json={"name": name}, headers=headers)
    lists = {
        (caller, owner): names_in(
            auth_client.get(f"{PROJECTS}?sort=name&owner={owner}", headers=headers)
        )
        for caller, headers in (("alice", alice), ("bob", bob), ("carol", admin))
        for owner in ("alice", "bob", "carol")
    }
    assert {key: project_names for key, project_names in lists.items() if project_names} == {
        ("alice", "alice"): ["a", "c"],
        ("bob", "bob"): ["b"],
        ("carol", "alice"): ["a", "c"],
        ("carol", "bob"): ["b"],
    }


def test_a_cursor_with_another_owner_filter_gets_a_400(client, problem, sql, twelve_projects):
    sql("UPDATE projects SET owner = 'alice'")
    cursor = client.get(f"{PROJECTS}?owner=alice&page_size=2").json["next_cursor"]
    url = f"{PROJECTS}?page_size=2&cursor={cursor}"
    assert names_in(client.get(f"{url}&owner=alice")) == ["project 09", "project 08"]
    for other in ("", "&owner=bob"):
        problem(client.get(url + other), 400, "validation_error")


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        *(
            (f"page={bad}", "page")
            for bad in ("0", "-1", "abc", "1.5", "", "%201", "1_0", "+1", "١")
        ),
        *((f"page={bad}", "page") for bad in (2**31, 2**63, "9" * 20, "9" * 5000, "1e3", "0x1")),
        *((f"page_size={bad}", "page_size") for bad in ("0", "101", "-5", "ten", "")),
        *((f"sort={bad}", "sort") for bad in ("", "id", "Name", "name,name", "name,", "--name")),
        *(
            (f"sort={bad}", "sort")
            for bad in ("description", "name;drop table", "%2Bname", "name desc")
        ),
        *((f"fields={bad}", "fields") for bad in ("", "nope", "name,", "name,name", "*")),
        *((f"is_active={bad}", "is_active") for bad in ("1", "True", "yes", "", "null")),
        *((f"name={bad}", "name") for bad in ("", "x" * 201, "a%00b")),
        *(
            (f"created_at[gte]={bad}", "created_at[gte]")
            for bad in (
                *("", "yesterday", "2026-01-01", "2026-01-01T00:00:00", "2026-13-01T00:00:00Z"),
                *("2026-02-30T00:00:00Z", "2026-01-01T25:00:00Z", "2026-01-01T00:00:60Z"),
                *("20260101T000000Z", "2026-W01-1T00:00:00Z", "1767225600", "2026-01-01T00:00Z"),
                *(
                    "2026-01-01T00:00:00%2B0900",
                    "0001-01-01T00:00:00%2B00:01",
                    "10000-01-01T00:00:00Z",
                    "２026-01-01T00:00:00Z",
                ),
            )
        ),
        ("created_at[eq]=2026-01-01T00:00:00Z", "created_at[eq]"),
        ("created_at=2026-01-01T00:00:00Z", "created_at"),
        ("updated_at[lt]=x", "updated_at[lt]"),
        *((f"q={bad}", "q") for bad in ("", "a", "a b", "%20", "%20%09", "e%CC%81", "x%00y")),
        *((f"q={bad}", "q") for bad in ("가", "İ", "I%CC%87", "H%CC%B1", "x" * 201, "a%E3%80%80b")),
        *((f"count={bad}", "count") for bad in ("", "all", "Exact", "1", "auto,none")),
        *((f"cursor={bad}", "cursor") for bad in ("", "x", "AAAA", "%EB%B2%88", "1")),
        *((f"attributes={bad}", "attributes") for bad in ("", "core", "{", "[]", "1", "null")),
        *((f"attributes={bad}", "attributes") for bad in ('"a"', "{}x", "{'a':1}", '{"a":NaN}')),
        ('attributes={"a":1,"a":1}', "attributes"),
        ('attributes={"a":1e999}', "attributes"),
        ('attributes={"a":' + "9" * 4400 + "}", "attributes"),
        ('attributes={"a":"\\u0000"}', "attributes"),
        ('attributes={"\\ud800":1}', "attributes"),
        ("attributes=" + '{"a":' * 33 + "1" + "}" * 33, "attributes"),
        ("attributes=" + "[" * 5000, "attributes"),
        ('attributes={"a":' + "[" * 950 + '"\\u0041"' + "]" * 950 + "}", "attributes"),
        ("attributes={}&attributes={}", "attributes"),
        ("attributes[team]=core", "attributes[team]"),
        ("Q=ab", "Q"),
        ("colour=red", "colour"),
        ("q%00=x", "q\0"),
        ("page=1&page=1", "page"),
        ("name=a&name=b", "name"),
        ("q=ab&q=ab", "q"),
        (
            "created_at[gt]=2026-01-01T00:00:00Z&created_at[gt]=2026-01-01T00:00:00Z",
            "created_at[gt]",
        ),
        ("sort=name&sort=name", "sort"),
        ("sort=name&sort=", "sort"),
        ("sort=name,created_at&sort=-created_at,name", "sort"),
        ("fields=name&fields=id,name", "fields"),
        *((f"owner={bad}", "owner") for bad in ("", "x" * 256, "a%00b")),
        ("owner=a&owner=b", "owner"),
        ("PAGE=1", "PAGE"),
    ],
)
def test_an_invalid_parameter_gets_a_400_that_names_it(client, problem, query, parameter):
    body = problem(client.get(f"{PROJECTS}?{query}"), 400, "validation_error")
    assert parameter in body["details"]
    assert parameter in body["detail"]


@pytest.mark.parametrize(
    "query", ["name=%ff", "%ff=1", "name=%ed%a0%80", "&".join(f"a{n}=1" for n in range(51))]
)
def test_an_undecodable_query_string_gets_a_400(client, problem, query):
    problem(client.get(f"{PROJECTS}?{query}"), 400, "bad_request")
