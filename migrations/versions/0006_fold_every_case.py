"""Search ignores the case of every letter, and treats all white space alike, on every server.

What lower() knows depends on the version and on a library of the server: neither decides any more.
The next migration folds the rows that are there. Until then a search may miss an old text that has
one of the letters that were not folded before.
"""

import re

from alembic import context, op

revision = "0006"
down_revision = "0005"

# Unicode 17's simple case folding (CaseFolding.txt, C and S) beyond ASCII, and both Turkish i as i.
# Code points in hexadecimal, with /2 every other one, then what is added to each.
CASES = """
b5:775 c0-d6:32 d8-de:32 100-12e/2:1 130:-199 131:-200 132-136/2:1 139-147/2:1 14a-176/2:1 178:-121
179-17d/2:1 17f:-268 181:210 182-184/2:1 186:206 187:1 189-18a:205 18b:1 18e:79 18f:202 190:203
191:1 193:205 194:207 196:211 197:209 198:1 19c:211 19d:213 19f:214 1a0-1a4/2:1 1a6:218 1a7:1
1a9:218 1ac:1 1ae:218 1af:1 1b1-1b2:217 1b3-1b5/2:1 1b7:219 1b8:1 1bc:1 1c4:2 1c5:1 1c7:2 1c8:1
1ca:2 1cb-1db/2:1 1de-1ee/2:1 1f1:2 1f2-1f4/2:1 1f6:-97 1f7:-56 1f8-21e/2:1 220:-130 222-232/2:1
23a:10795 23b:1 23d:-163 23e:10792 241:1 243:-195 244:69 245:71 246-24e/2:1 345:116 370-372/2:1
376:1 37f:116 386:38 388-38a:37 38c:64 38e-38f:63 391-3a1:32 3a3-3ab:32 3c2:1 3cf:8 3d0:-30 3d1:-25
3d5:-15 3d6:-22 3d8-3ee/2:1 3f0:-54 3f1:-48 3f4:-60 3f5:-64 3f7:1 3f9:-7 3fa:1 3fd-3ff:-130
400-40f:80 410-42f:32 460-480/2:1 48a-4be/2:1 4c0:15 4c1-4cd/2:1 4d0-52e/2:1 531-556:48
10a0-10c5:7264 10c7:7264 10cd:7264 13f8-13fd:-8 1c80:-6222 1c81:-6221 1c82:-6212 1c83-1c84:-6210
1c85:-6211 1c86:-6204 1c87:-6180 1c88:35267 1c89:1 1c90-1cba:-3008 1cbd-1cbf:-3008 1e00-1e94/2:1
1e9b:-58 1e9e:-7615 1ea0-1efe/2:1 1f08-1f0f:-8 1f18-1f1d:-8 1f28-1f2f:-8 1f38-1f3f:-8 1f48-1f4d:-8
1f59-1f5f/2:-8 1f68-1f6f:-8 1f88-1f8f:-8 1f98-1f9f:-8 1fa8-1faf:-8 1fb8-1fb9:-8 1fba-1fbb:-74
1fbc:-9 1fbe:-7173 1fc8-1fcb:-86 1fcc:-9 1fd3:-7235 1fd8-1fd9:-8 1fda-1fdb:-100 1fe3:-7219
1fe8-1fe9:-8 1fea-1feb:-112 1fec:-7 1ff8-1ff9:-128 1ffa-1ffb:-126 1ffc:-9 2126:-7517 212a:-8383
212b:-8262 2132:28 2160-216f:16 2183:1 24b6-24cf:26 2c00-2c2f:48 2c60:1 2c62:-10743 2c63:-3814
2c64:-10727 2c67-2c6b/2:1 2c6d:-10780 2c6e:-10749 2c6f:-10783 2c70:-10782 2c72:1 2c75:1
2c7e-2c7f:-10815 2c80-2ce2/2:1 2ceb-2ced/2:1 2cf2:1 a640-a66c/2:1 a680-a69a/2:1 a722-a72e/2:1
a732-a76e/2:1 a779-a77b/2:1 a77d:-35332 a77e-a786/2:1 a78b:1 a78d:-42280 a790-a792/2:1
a796-a7a8/2:1 a7aa:-42308 a7ab:-42319 a7ac:-42315 a7ad:-42305 a7ae:-42308 a7b0:-42258 a7b1:-42282
a7b2:-42261 a7b3:928 a7b4-a7c2/2:1 a7c4:-48 a7c5:-42307 a7c6:-35384 a7c7-a7c9/2:1 a7cb:-42343
a7cc-a7da/2:1 a7dc:-42561 a7f5:1 ab70-abbf:-38864 fb05:1 ff21-ff3a:32 10400-10427:40 104b0-104d3:40
10570-1057a:39 1057c-1058a:39 1058c-10592:39 10594-10595:39 10c80-10cb2:64 10d50-10d65:32
118a0-118bf:32 16e40-16e5f:32 16ea0-16eb8:27 1e900-1e921:34
"""

# Unicode's White_Space and U+001C to U+001E, at all of which Python splits.
SPACES = r"\t-\r\x1c-\x1e\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"

# NFC, the letters above and ASCII's, no dot over an i (JavaScript's lower case of a dotted capital
# has one), NFC. Then white space is one blank, but nothing at the ends and beside U+001F, which is
# before each text. A regular expression finds the letters much faster than translate() does.
SEARCH_FOLD = r"""
CREATE OR REPLACE FUNCTION search_fold(given text) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
  folded text COLLATE "C" := given;
  letters text COLLATE "C";
  letter text COLLATE "C";
BEGIN
  IF octet_length(folded) > char_length(folded) THEN
    IF folded IS NOT NFC NORMALIZED THEN
      folded := normalize(folded, NFC);
    END IF;
    IF folded ~ '[CLASS]' THEN
      letters := regexp_replace(folded, '[^CLASS]+', '', 'g');
      WHILE letters <> '' LOOP
        letter := left(letters, 1);
        folded := replace(folded, letter, substr('LOWER', strpos('UPPER', letter), 1));
        letters := replace(letters, letter, '');
      END LOOP;
    END IF;
    folded := replace(lower(folded), U&'i\0307', 'i');
    IF folded IS NOT NFC NORMALIZED THEN
      folded := normalize(folded, NFC);
    END IF;
  ELSE
    folded := lower(folded);
  END IF;
  IF folded ~ '[SPACES]' OR folded LIKE '%  %' OR folded LIKE E'%\x1f %'
    OR folded LIKE E'% \x1f%' OR folded LIKE '% '
  THEN
    folded := regexp_replace(folded, '[ SPACES]+', ' ', 'g');
    folded := rtrim(replace(replace(folded, E' \x1f', E'\x1f'), E'\x1f ', E'\x1f'));
  END IF;
  RETURN folded;
END
$$
"""

PROJECT_TEXT = r"""
CREATE OR REPLACE FUNCTION project_text(name varchar, description varchar) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN search_fold(
  E'\x1f' || replace(name, E'\x1f', ' ')
  || E'\x1f' || coalesce(replace(description, E'\x1f', ' '), '')
)
"""


def search_fold() -> str:
    """Return the function's SQL with the letters in it."""
    spans, cases = [], {}
    for run in CASES.split():
        first, last, step, distance = re.fullmatch(r"(\w+)(?:-(\w+))?(/2)?:(-?\d+)", run).groups()
        codes = range(int(first, 16), int(last or first, 16) + 1, 2 if step else 1)
        cases |= {chr(code): chr(code + int(distance)) for code in codes}
        spans += map(chr, codes) if step else [f"{chr(codes[0])}-{chr(codes[-1])}"]
    return (
        SEARCH_FOLD.replace("CLASS", "".join(spans))
        .replace("UPPER", "".join(cases))
        .replace("LOWER", "".join(cases.values()))
        .replace("SPACES", SPACES)
    )


def upgrade() -> None:
    op.execute(search_fold())
    op.execute(PROJECT_TEXT)


def downgrade() -> None:
    before = context.script.get_revision("0002").module
    for function in (before.SEARCH_FOLD, before.PROJECT_TEXT):
        op.execute(function.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
    with op.get_context().autocommit_block():
        op.execute(context.script.get_revision("0007").module.FOLD_AGAIN)
