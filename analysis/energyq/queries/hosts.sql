-- Who ships to this lake?
FROM hosts ORDER BY host
