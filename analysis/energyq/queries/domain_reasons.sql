-- Why is a domain absent, unreadable or estimated? The newest reason for each state it was ever in.
SELECT domain, state, arg_max(source, t_ns) AS source, arg_max(reason, t_ns) AS reason
FROM raw_domains GROUP BY domain, state
