-- For which share of its time did each training stage of these runs (NULL: of all) idle?
FROM raw_starved_totals($runs::VARCHAR[])
