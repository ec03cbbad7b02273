"""JSON, NDJSON and CSV: the same data creates the same rows, and every value is exact."""

import json
import time
from decimal import Decimal

import pytest

from tests.bulk_bodies import CSV, FORMATS, JSON, NDJSON, body_of
from tests.conftest import PROJECTS

LARGE = "12345678901234567890.123456789012345678901234567890"
# Texts that need quotes, or that a spreadsheet or a parser may misread.
TEXTS = [
    *("plain", "번역 𝄞 é", ' "quoted" ', '"', '""', "a,b", "a;b\tc", "\r\n", "a\nb\r", "\n"),
    *("null", "true", "7", "{}", " ", "  x  ", "\\", "\\n", "%s %(x)s", ":name", "'", "''", "a'b"),
    *("\ufeff", "\u2028", "\x7f", "\x01", "-", "--", "a=1", "#", "''=x", "\uff1dx", "\n=x"),
]


@pytest.fixture
def post(client):
    def send(body, content_type):
        response = client.post(PROJECTS, data=body, content_type=content_type)
        assert response.status_code == 201, response.text
        return response.json["items"]

    return send


def without_varying(rows):
    varying = ("id", "created_at", "updated_at")
    return [{name: row[name] for name in row if name not in varying} for row in rows]


def test_the_same_data_creates_the_same_rows_as_single_requests(client, post):
    items = [
        {
            "name": text,
            "description": [None, "", text][n % 3],
            "is_active": n % 2 == 0,
            "attributes": {"text": text, text: [n, None, {"a": 1.5, "b": []}]},
        }
        for n, text in enumerate(TEXTS)
    ]
    single = [client.post(PROJECTS, json=item).json for item in items]
    assert [row["name"] for row in single] == TEXTS
    for content_type in FORMATS:
        rows = post(body_of(content_type, items), content_type)
        assert without_varying(rows) == without_varying(single), content_type


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("x,,true,{}", {"description": None}),
        ('x,"",true,{}', {"description": ""}),
        ("x, y ,true,{}", {"description": " y "}),
        ('x,"a\r\nb\n""c""",true,{}', {"description": 'a\r\nb\n"c"'}),
        ('"x","y","false","{""a"":""번역""}"', {"is_active": False, "attributes": {"a": "번역"}}),
        ("x,y,TRUE,{}", {"is_active": True}),
        ("x,y,FALSE, {} ", {"is_active": False}),
        ("'=1+1,'+1,true,{}", {"name": "=1+1", "description": "+1"}),
        ("'-1,'@x,true,{}", {"name": "-1", "description": "@x"}),
        ("''x,'x,true,{}", {"name": "'x", "description": "'x"}),
        ('"\'\t","\'\r",true,{}', {"name": "\t", "description": "\r"}),
        ('"\'\n","\'\n=",true,{}', {"name": "\n", "description": "\n="}),
        ("'\uff1d1,'\uff0b1,true,{}", {"name": "\uff1d1", "description": "\uff0b1"}),
        ("'\uff0d1,'\uff201,true,{}", {"name": "\uff0d1", "description": "\uff201"}),
        ("=1,-1,true,{}", {"name": "=1", "description": "-1"}),
        ("', ,true,{}", {"name": "'", "description": " "}),
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_a_csv_cell_has_the_value(post, row, expected, line_end):
    lines = ["\ufeffname,description,is_active,attributes", "", row, "last,,true,{}"]
    first, last = post(line_end.join(lines).encode(), CSV)
    assert {name: first[name] for name in expected} == expected
    assert last["name"] == "last"


def test_a_csv_has_columns_in_any_order_and_defaults_for_missing_ones(post):
    rows = post(b'is_active,"name",version\nfalse,a,9\ntrue,b,\n', CSV)
    assert [(row["name"], row["is_active"], row["version"]) for row in rows] == [
        ("a", False, 1),
        ("b", True, 1),
    ]
    assert {json.dumps(row["attributes"]) for row in rows} == {"{}"}


@pytest.mark.parametrize(
    ("header", "name"),
    [
        *((header, "1") for header in ("name,name", "name,", ",name", '"name', 'na"me', "\xff")),
        *((f"\n\n{header}", "3") for header in ("name,name", '"name"x')),
        *(("nom", "2.nom"), ("Name", "2.Name"), (" name", "2. name"), ("name;is_active", "2")),
    ],
)
def test_an_invalid_header_row_gets_a_400_that_names_it(client, problem, header, name):
    body = f"{header}\n{'x,y' if ',' in header else 'x'}\n".encode("latin-1")
    response = client.post(PROJECTS, data=body, content_type=CSV)
    document = problem(response, 400, "validation_error")
    assert any(key.startswith(name) for key in document["details"])


def test_a_header_row_of_many_columns_takes_little_time(client, problem):
    header = ",".join(f"c{n}" for n in range(60_000))
    started_at = time.process_time()
    problem(client.post(PROJECTS, data=f"{header}\n1".encode(), content_type=CSV), 400)
    assert time.process_time() - started_at < 5  # 20 if each name is compared with all others


def test_a_csv_of_a_header_row_only_gets_a_400(client, problem):
    for body in (b"name\n", b"name"):
        response = client.post(PROJECTS, data=body, content_type=CSV)
        problem(response, 400, "bad_request")


@pytest.mark.parametrize("body", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_csv_gets_a_400_that_misses_the_header_row(client, problem, body):
    document = problem(client.post(PROJECTS, data=body, content_type=CSV), 400, "validation_error")
    assert document["details"] == {"1": ["The header row is missing."]}


def test_ndjson_may_have_blank_lines_and_no_last_line_end(post):
    rows = post(b'\n {"name": "a"} \r\n\r\n\t\n{"name": "b"}', NDJSON)
    assert [row["name"] for row in rows] == ["a", "b"]


@pytest.mark.parametrize(
    "body", [b'\xef\xbb\xbf{"name": "x"}', b'[{"name": "x"}]', b'{"name":\n"x"}']
)
def test_lines_that_are_no_json_object_get_a_400_that_names_them(client, problem, body):
    document = problem(client.post(PROJECTS, data=body, content_type=NDJSON), 400)
    assert "1" in {key.partition(".")[0] for key in document["details"]}


NUMBERS = [
    *("0.1", "1.0", "1.10", "100.00", "1e2", "1E+2", "-0.0", "-0", "7", "0.30000000000000004"),
    *(LARGE, f"-{LARGE}", "0.1234567890123456789", "1e400", "-1e-400", "9" * 400, "1e-7"),
    *("12345678901234567890.0", "4.9e-324", "1.7976931348623157e308", "1.7976931348623159e308"),
]


@pytest.mark.parametrize("content_type", [NDJSON, CSV])
def test_each_number_in_attributes_is_stored_with_all_digits(post, sql, content_type):
    attributes = [f'{{"a": [{number}], "b": {{"c": {number}}}, "d": "x,y"}}' for number in NUMBERS]
    if content_type == NDJSON:
        body = "\n".join(f'{{"attributes": {text}, "name": "x"}}' for text in attributes)
    else:
        cells = (text.replace('"', '""') for text in attributes)
        body = "name,attributes\n" + "\n".join(f'x,"{cell}"' for cell in cells)
    post(body.encode(), content_type)
    stored = sql("SELECT attributes #>> '{a,0}', attributes #>> '{b,c}' FROM projects ORDER BY id")
    for number, (first, second) in zip(NUMBERS, stored, strict=True):
        ((expected,),) = sql("SELECT CAST(%s AS jsonb) #>> '{}'", number)
        assert first == second == expected
        assert Decimal(first) == Decimal(number)


@pytest.mark.parametrize("number", ["1e5000", "1e-5000", "1e131072", "9" * 5000, f"0.{'1' * 5000}"])
def test_a_number_of_more_than_4300_digits_gets_a_400_that_names_the_field(client, problem, number):
    body = f'{{"name": "x", "attributes": {{"a": {number}}}}}'
    response = client.post(PROJECTS, data=body.encode(), content_type=NDJSON)
    assert problem(response, 400, "validation_error")["details"].keys() == {"1.attributes"}


def test_an_array_has_the_precision_of_doubles_as_a_single_request_has(client, post):
    body = f'{{"name": "x", "attributes": {{"a": {LARGE}}}}}'.encode()
    single = client.post(PROJECTS, data=body, content_type=JSON)
    (row,) = post(b"[" + body + b"]", JSON)
    assert row["attributes"] == single.json["attributes"]
