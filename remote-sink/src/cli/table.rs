//! Columns for people, and times and counts as people read them.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Aligns cells to the left, two spaces between columns, no space at a line's end.
pub fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        })
        .collect()
}

/// Seconds since 1970 in the machine's time zone, with its offset.
pub fn local(seconds: i64) -> String {
    match Timestamp::from_second(seconds) {
        Ok(time) => time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M %:z").to_string(),
        Err(_) => "impossible time".into(),
    }
}

/// RFC 3339, UTC.
pub fn utc(seconds: i64) -> Option<String> {
    Timestamp::from_second(seconds).ok().map(|time| time.to_string())
}

/// `214,113`
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 file`, `2,003 files`: for words whose plural only adds an s.
pub fn counted(number: u64, one: &str) -> String {
    format!("{} {one}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// How long ago, roughly.
pub fn ago(seconds: i64) -> String {
    match seconds {
        ..0 => "in the future".into(),
        0..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_columns() {
        assert_eq!([grouped(0), grouped(999), grouped(1000), grouped(214_113)], ["0", "999", "1,000", "214,113"]);
        assert_eq!([0, 1, 2003].map(|count| counted(count, "file")), ["0 files", "1 file", "2,003 files"]);
        let rows = [vec!["a".into(), "bb".into()], vec!["ccc".into(), String::new()]];
        assert_eq!(columns(&rows), ["a    bb", "ccc"]);
        assert_eq!(utc(0).unwrap(), "1970-01-01T00:00:00Z");
        assert_eq!(local(i64::MAX), "impossible time");
        assert_eq!(
            [ago(-5), ago(90), ago(7199), ago(90_000)],
            ["in the future", "90 s ago", "119 min ago", "25 h ago"]
        );
    }
}
