-- What do the views of a lake need besides those of a store? Run before them; `lake_host` is the enum of its hosts.

-- Whose a device of the lake is.
CREATE MACRO raw_host_of(device) AS enum_range(NULL::lake_host)[device // 256 + 1]::VARCHAR;
-- A text of parts, each of them once: what is said of several hosts is mostly the same.
CREATE MACRO raw_once(said, sep) AS array_to_string(list_filter(string_split(said, sep),
  lambda part, i: list_position(string_split(said, sep), part) = i), sep);
