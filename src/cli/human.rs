//! Numbers and tables for people.

use super::escape::escape;

/// `12.3 MiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `12.3 MiB/s`; nothing for next to nothing.
pub fn rate(bytes_a_second: f64) -> String {
    if bytes_a_second < 1.0 {
        return "-".to_owned();
    }
    format!("{}/s", bytes(bytes_a_second as u64))
}

/// `45 s`, `3:07`, `2:03:07`, `4 d 6 h`.
pub fn duration(seconds: f64) -> String {
    let s = seconds.max(0.0) as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3_600 => format!("{}:{:02}", s / 60, s % 60),
        3_600..86_400 => format!("{}:{:02}:{:02}", s / 3_600, s / 60 % 60, s % 60),
        _ => format!("{} d {} h", s / 86_400, s / 3_600 % 24),
    }
}

/// Which way a column leans.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// Columns under a head, two spaces apart; every cell is escaped here.
pub fn table(head: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| escape(cell).into_owned()).collect()).collect();
    let width = |i: usize| {
        let cells = rows.iter().map(|row| row[i].chars().count());
        cells.chain([head[i].0.chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut out = String::new();
    let mut push = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for ((cell, width), (_, align)) in cells.zip(&widths).zip(head) {
            let pad = " ".repeat(width - cell.chars().count());
            match align {
                Align::Left => line.extend([cell, &pad, "  "]),
                Align::Right => line.extend([&pad, cell, "  "]),
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    };
    push(&mut head.iter().map(|(name, _)| *name));
    for row in &rows {
        push(&mut row.iter().map(String::as_str));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_read_well() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes(1_048_575), "1.0 MiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
        assert_eq!(rate(0.0), "-");
        assert_eq!(rate(2048.0), "2.0 KiB/s");
        assert_eq!(duration(45.9), "45 s");
        assert_eq!(duration(187.0), "3:07");
        assert_eq!(duration(7_387.0), "2:03:07");
        assert_eq!(duration(367_200.0), "4 d 6 h");
    }

    #[test]
    fn a_name_cannot_break_its_table() {
        let head = [("SIZE", Align::Right), ("NAME", Align::Left)];
        let rows = [vec!["5 B".into(), "a\nb\x1b[0m".into()], vec!["12.0 KiB".into(), "ß".into()]];
        assert_eq!(table(&head, &rows), "    SIZE  NAME\n     5 B  a\\nb\\u{1b}[0m\n12.0 KiB  ß\n");
    }
}
