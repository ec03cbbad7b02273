"""Measure lists at a thousand and at a million rows, and their indexes; see README.md."""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg2
from flask.testing import FlaskClient

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import config  # noqa: E402 - the path comes first
from projectapp import create_app, database  # noqa: E402
from projectapp.devdb import DevPostgres  # noqa: E402
from projectapp.resources.cursors import Position, encode_cursor  # noqa: E402
from tests.plans import explain  # noqa: E402

PROJECTS = "/api/v1/projects"
ROUNDS = 21
WORDS = (
    "the of and project search design team report api server 번역 프로젝트 관리 시스템 개발"
    " 디자인 보고서 데이터 분석 서비스 사용자 고객 테스트 배포 계획 검색을 한국어 문서 회의"
    " 결과 项目 管理 系统 数据 翻译 設計 検索 テスト 開発 報告書 ユーザー サービス 計画 東京"
    " 서울 부산 release mobile website customer analytics dashboard migration database"
    " backend frontend research marketing launch budget roadmap quarterly review platform"
    " infrastructure security performance integration automation documentation localization"
    " accessibility onboarding partner invoice payment checkout inventory logistics warehouse"
    " delivery recommendation experiment prototype workshop training education compliance"
    " audit contract legal finance accounting recruiting culture strategy innovation"
    " sustainability energy mobility 건강 교육 금융 물류 보안 성능 자동화 지역화 접근성"
    " 파트너 결제 재고 배송 추천 개인화 실험 시제품 워크숍 훈련 규정 감사 계약 법무 회계 채용"
    " 복지 문화 전략 혁신 지속가능성 에너지 모빌리티 건축 예술 음악 영화 게임 스포츠 여행"
    " 음식 농업 환경 健康 教育 金融 物流 安全 性能 自动化 本地化 伙伴 支付 库存 配送 推荐"
    " 实验 原型 培训 合规 审计 合同 法律 会计 招聘 福利 文化 战略 创新 能源 交通 建筑 艺术"
    " 音乐 电影 游戏 体育 旅行 食品 农业 環境 クラウド モデル アプリ ネットワーク"
    " セキュリティ ロボット エンジン パイプライン コンテナ キャッシュ"
)
# The frequency of words follows Zipf's law. Five rows share a timestamp. A name ends in its number.
FILL = """
CREATE FUNCTION pg_temp.words(most int, seed int) RETURNS text LANGUAGE sql AS $$
  SELECT string_agg(w[1 + floor(power(random(), 2.2) * cardinality(w))::int], ' ')
  FROM generate_series(1, most + seed * 0), string_to_array(current_setting('bench.words'), ' ') w
$$;
INSERT INTO projects (id, name, description, is_active, attributes, created_at, updated_at)
SELECT gen_random_uuid(),
  pg_temp.words(1 + (random() * 4)::int, n) || ' ' || n,
  CASE WHEN random() < 0.8 THEN pg_temp.words(4 + (random() * 16)::int, n) END,
  random() < 0.9,
  jsonb_build_object('team', (ARRAY['core', 'web', 'data', 'ops'])[1 + floor(random() * 4)::int],
    'cost', (random() * 10000)::int),
  made, made + random() * interval '30 days'
FROM (SELECT n, timestamptz '2026-01-01Z' + n / 5 * interval '7 s' AS made
  FROM generate_series(1, {rows}) AS n) AS rows
"""
QUERIES = {
    "plain": "",
    "plain, without a total": "?count=none",
    "100 a page": "?page_size=100",
    "by name": "?sort=name",
    "by -updated_at": "?sort=-updated_at",
    "by is_active": "?sort=is_active",
    "by -is_active,name": "?sort=-is_active,name",
    "by updated_at,-name": "?sort=updated_at,-name",
    "active": "?is_active=true",
    "archived by name": "?is_active=false&sort=name",
    "archived by -updated_at": "?is_active=false&sort=-updated_at",
    "one name": "?name=번역 123",
    "ten hours": "?created_at[gte]=2026-01-01T00:00:00Z&created_at[lt]=2026-01-01T10:00:00Z",
    "changed before, by -created_at": "?updated_at[lt]=2026-01-02T00:00:00Z",
    "changed since, by name": "?updated_at[gte]=2026-01-10T00:00:00Z&sort=name",
    "attributes, a quarter": '?attributes={"team":"core"}',
    "attributes, one in 10 000": '?attributes={"cost":77}',
    "fields": "?fields=name,updated_at",
    "search: a word and a number": "?q=번역 777",
    "search: a number": "?q=777",
    "search: a long number": "?q=777777",
    "search: in vain": "?q=업로드",
    "search: two characters": "?q=재고",
    "search: two characters, common": "?q=번역",
    "search: two letters, everywhere": "?q=th",
    "search: a word": "?q=프로젝트",
    "search: two words": "?q=검색 design",
    "search, archived": "?q=재고&is_active=false",
    "search, attributes": '?q=재고&attributes={"team":"core"}',
    "search by name": "?q=재고&sort=name",
    "search: 100 a page": "?q=재고&page_size=100",
    "search, attributes, without a total": '?q=재고&attributes={"team":"core"}&count=none',
    "search: a word, without a total": "?q=프로젝트&count=none",
}


class Database:
    """A database of the server, and an application on it."""

    def __init__(self, server: DevPostgres, name: str, template: str = "template1") -> None:
        self.server, self.name = server, name
        self._run("postgres", f"CREATE DATABASE {name} TEMPLATE {template}")
        host = quote(server.parameters["host"])
        self.url = f"postgresql://postgres@/{name}?host={host}&port={server.parameters['port']}"

    def _run(self, name: str, statement: str) -> list[tuple[Any, ...]]:
        connection = psycopg2.connect(**{**self.server.parameters, "dbname": name})
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('bench.words', %s, false)", (WORDS,))
            cursor.execute(statement)
            rows = cursor.fetchall() if cursor.description else []
        connection.close()
        return rows

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        return self._run(self.name, statement)

    def migrate(self, revision: str = "head") -> None:
        command = [sys.executable, "-m", "flask", "db", "upgrade", revision]
        urls = {"DATABASE_URL": self.url, "MIGRATIONS_DATABASE_URL": ""}
        environ = {**os.environ, "APP_ENV": "development", **urls}
        subprocess.run(command, cwd=ROOT, env=environ, check=True, stderr=subprocess.DEVNULL)

    def make_client(self) -> FlaskClient:
        app = create_app(config.Development({"DATABASE_URL": self.url, "LOG_LEVEL": "error"}))
        return app.test_client()


def get_milliseconds(client: FlaskClient, path: str) -> float:
    start = time.perf_counter()
    response = client.get(path)
    milliseconds = (time.perf_counter() - start) * 1000
    if response.status_code != 200:
        raise RuntimeError(response.text)
    return milliseconds


def median_milliseconds(clients: list[FlaskClient], paths: list[str]) -> list[float]:
    """Return the median of interleaved rounds for each client; each has its own path."""
    rounds = [
        [get_milliseconds(c, p) for c, p in zip(clients, paths, strict=True)] for _ in range(ROUNDS)
    ]
    return [statistics.median(times) for times in zip(*rounds[1:], strict=True)]


def cursor_query(client: FlaskClient, sort: str, last: bool) -> str:
    """Return the query for the second page or the last one, with a cursor."""
    if not last:
        return f"?sort={sort}&cursor=" + client.get(f"{PROJECTS}?sort={sort}").json["next_cursor"]
    key = sort.removeprefix("-")
    backward = key if sort.startswith("-") else f"-{key}"
    before = client.get(f"{PROJECTS}?sort={backward}&page_size=11").json["items"][10]
    position = Position([0, before[key], before["id"]])
    list_key = {"sort": [sort], "resource": "projects"}
    return f"?sort={sort}&cursor=" + encode_cursor(position, list_key)


def describe_plan(client: FlaskClient, path: str) -> str:
    """Return the executed nodes of a list's plan."""
    lines = explain(client, path, "COSTS OFF, TIMING OFF, BUFFERS OFF")
    nodes = (line for line in lines if re.search(r"->|Index Cond|Execution Time", line))
    return "\n".join(line for line in nodes if "never executed" not in line)


def create_rate(client: FlaskClient, texts: list[tuple[str, str | None]]) -> float:
    """Create projects, one in a request; return how many a second."""
    start = time.perf_counter()
    for name, description in texts:
        body = {"name": name, "description": description, "attributes": {"team": "core"}}
        if client.post(PROJECTS, json=body).status_code != 201:
            raise RuntimeError
    return len(texts) / (time.perf_counter() - start)


def bulk_microseconds(target: Database, change: str) -> float:
    """Change the schema, insert 20 000 rows and undo both; return the microseconds of a row."""
    target.sql("CHECKPOINT")
    start = time.perf_counter()
    target.sql(
        f"BEGIN; {change}; INSERT INTO projects (id, name, description, attributes)"  # noqa: S608
        " SELECT gen_random_uuid(), name, description, attributes FROM projects LIMIT 20000;"
        " ROLLBACK"
    )
    return (time.perf_counter() - start) * 1e6 / 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--explain", action="store_true", help="also print the plan of each list")
    parser.add_argument("--rows", type=int, default=1_000_000, help="in the big table")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = DevPostgres(Path(folder), config.Development(os.environ).EMBEDDED_POSTGRES_BIN)
        server.start()
        try:
            run(server, arguments.rows, arguments.explain)
        finally:
            server.release()


def run(server: DevPostgres, rows: int, with_plans: bool) -> None:
    small, big = Database(server, "small"), Database(server, "big")
    for target, count in ((small, 1000), (big, rows)):
        target.migrate("0001")
        target.sql(FILL.format(rows=count))
        start = time.perf_counter()
        target.migrate()
        print(f"{count} rows: flask db upgrade took {time.perf_counter() - start:.0f} s")
        target.sql("VACUUM ANALYZE projects")
    clients = [small.make_client(), big.make_client()]

    lists = {
        name: [PROJECTS + quote(query, safe="?=&[]{}:,-")] * 2 for name, query in QUERIES.items()
    }
    for sort in ("-created_at", "name"):
        for name, last in (("second", False), ("last", True)):
            lists[f"{name} page by cursor, {sort}"] = [
                PROJECTS + cursor_query(client, sort, last) for client in clients
            ]
    print(f"| list | ms at 1000 rows | at {rows} | budget | matches |")
    print("|---|---|---|---|---|")
    for name, paths in lists.items():
        small_ms, big_ms = median_milliseconds(clients, paths)
        path = paths[1].replace("count=none", "")
        total = clients[1].get(path + ("&" if "?" in path else "?") + "count=exact").json["total"]
        budget = 2 * small_ms + 3
        if name.startswith("search"):
            budget = 20 if total < 1_000 else 50
        print(f"| {name} | {small_ms:.1f} | {big_ms:.1f} | {budget:.1f} | {total} |")
    if with_plans:
        for name, paths in lists.items():
            print(f"\n{name}\n{describe_plan(clients[1], paths[1])}")

    for client in clients:
        with client.application.app_context():
            database.db.engine.dispose()
    without_index = Database(server, "without_index", template="big")
    without_index.sql("DROP INDEX projects_bigrams_idx")
    texts = big.sql("SELECT name, description FROM projects ORDER BY random() LIMIT 500")
    pair = [big.make_client(), without_index.make_client()]
    for client in pair:
        create_rate(client, texts[:50])
    rounds = [[create_rate(client, texts) for client in pair] for _ in range(9)]
    rates = [statistics.median(values) for values in zip(*rounds, strict=True)]
    ratios = [a / b for a, b in rounds]
    print(
        f"\nCreating, one in a request: {rates[0]:.0f}/s; without the search index"
        f" {rates[1]:.0f}/s; ratio {statistics.median(ratios):.2f}"
        f" ({min(ratios):.2f}..{max(ratios):.2f})"
    )
    sizes = dict(
        big.sql(
            "SELECT relname, pg_relation_size(oid) / 1048576.0 FROM pg_class"
            " WHERE relname ~ '^projects' AND relkind IN ('r', 'i') ORDER BY 2 DESC"
        )
    )
    changes = {
        "nothing": "SELECT 1",
        "search: its index and columns": "ALTER TABLE projects DROP search, DROP bigrams",
        **{name: f"DROP INDEX {name}" for name in sizes if name.endswith("_idx")},
    }
    rounds = [[bulk_microseconds(big, change) for change in changes.values()] for _ in range(5)]
    times = [statistics.median(values) for values in zip(*rounds, strict=True)]
    print("\n| without | MiB | us a row, 20 000 at once | rate with it / rate without it |")
    print("|---|---|---|---|")
    for name, microseconds in zip(changes, times, strict=True):
        size = f"{sizes[name]:.0f}" if name in sizes else ""
        print(f"| {name} | {size} | {microseconds:.0f} | {microseconds / times[0]:.2f} |")
    print(
        f"\nThe table itself: {sizes['projects']:.0f} MiB;"
        f" its primary key: {sizes['projects_pkey']:.0f} MiB"
    )


if __name__ == "__main__":
    main()
