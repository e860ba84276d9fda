//! Tables and line charts: one table is shown as text, as CSV, and (with the columns to draw) as SVG.

use plotters::coord::ranged1d::ValueFormatter;
use plotters::prelude::*;

/// A cell of a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    Text(String),
    Int(u64),
    /// Shown with three decimals, written to CSV in full.
    Real(f64),
    Empty,
}

impl Cell {
    fn shown(&self) -> String {
        match self {
            Cell::Text(t) => t.clone(),
            Cell::Int(n) => n.to_string(),
            Cell::Real(x) => format!("{x:.3}"),
            Cell::Empty => "-".to_owned(),
        }
    }

    fn csv(&self) -> String {
        match self {
            Cell::Text(t) if t.contains([',', '"', '\n', '\r']) => format!("\"{}\"", t.replace('"', "\"\"")),
            Cell::Text(t) => t.clone(),
            Cell::Int(n) => n.to_string(),
            Cell::Real(x) => x.to_string(),
            Cell::Empty => String::new(),
        }
    }

    fn number(&self) -> Option<f64> {
        match self {
            Cell::Int(n) => Some(*n as f64),
            Cell::Real(x) if x.is_finite() => Some(*x),
            _ => None,
        }
    }
}

impl From<Option<f64>> for Cell {
    fn from(x: Option<f64>) -> Cell {
        x.map_or(Cell::Empty, Cell::Real)
    }
}

/// Named columns and rows of as many cells.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Cell>>,
}

impl Table {
    pub fn new(columns: &[&str]) -> Table {
        Table { columns: columns.iter().map(|&c| c.to_owned()).collect(), rows: Vec::new() }
    }

    /// Adds a row; a short one is filled up with empty cells.
    pub fn push(&mut self, mut row: Vec<Cell>) {
        row.resize(self.columns.len(), Cell::Empty);
        self.rows.push(row);
    }

    /// Columns lined up to the right, as a terminal shows them.
    pub fn to_text(&self) -> String {
        let shown: Vec<Vec<String>> = self.rows.iter().map(|r| r.iter().map(Cell::shown).collect()).collect();
        let width = |c: usize| {
            let cells = shown.iter().map(|r| r[c].chars().count());
            cells.chain([self.columns[c].chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let line = |cells: &[String]| {
            let padded = cells.iter().zip(&widths).map(|(c, w)| format!("{c:>w$}"));
            padded.collect::<Vec<_>>().join("  ") + "\n"
        };
        let mut out = line(&self.columns);
        shown.iter().for_each(|r| out.push_str(&line(r)));
        out
    }

    /// RFC 4180, with `\n` between the lines.
    pub fn to_csv(&self) -> String {
        let head = self.columns.iter().map(|c| Cell::Text(c.clone()).csv()).collect::<Vec<_>>().join(",");
        let mut out = head + "\n";
        for row in &self.rows {
            out.push_str(&row.iter().map(Cell::csv).collect::<Vec<_>>().join(","));
            out.push('\n');
        }
        out
    }

    /// A line for each of the columns `ys` over the column `x`; cells that are no numbers are left out.
    pub fn series(&self, x: usize, ys: &[usize]) -> Vec<Series> {
        let points = |y: usize| -> Vec<(f64, f64)> {
            self.rows.iter().filter_map(|r| Some((r[x].number()?, r[y].number()?))).collect()
        };
        ys.iter().map(|&y| Series { name: self.columns[y].clone(), points: points(y) }).collect()
    }
}

/// One line of a chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// A line chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    pub title: String,
    pub x: String,
    pub y: String,
    /// Both axes logarithmic; points at or below 0 are left out then.
    pub log: bool,
    pub series: Vec<Series>,
}

/// A chart that could not be drawn.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    #[error("nothing to draw: the result has no points")]
    Empty,
    #[error("cannot draw the chart: {0}")]
    Draw(String),
}

impl Chart {
    /// The chart as an SVG document of 960 by 600.
    pub fn to_svg(&self) -> Result<String, PlotError> {
        let mut out = String::new();
        let series = self.drawable();
        let (xs, ys) = bounds(&series, self.log).ok_or(PlotError::Empty)?;
        {
            let root = SVGBackend::with_string(&mut out, (960, 600)).into_drawing_area();
            root.fill(&WHITE).map_err(draw)?;
            let mut b = ChartBuilder::on(&root);
            b.caption(&self.title, ("sans-serif", 22)).margin(16);
            b.x_label_area_size(48).y_label_area_size(80);
            // The two kinds of axis are different types, hence two calls of the same macro-less body.
            if self.log {
                let c = b.build_cartesian_2d((xs.0..xs.1).log_scale(), (ys.0..ys.1).log_scale());
                self.lines(c.map_err(draw)?, &series)?;
            } else {
                let c = b.build_cartesian_2d(xs.0..xs.1, ys.0..ys.1);
                self.lines(c.map_err(draw)?, &series)?;
            }
            root.present().map_err(draw)?;
        }
        Ok(out)
    }

    fn drawable(&self) -> Vec<Series> {
        let keep =
            |p: &(f64, f64)| p.0.is_finite() && p.1.is_finite() && (!self.log || (p.0 > 0.0 && p.1 > 0.0));
        let clean = |s: &Series| Series {
            name: s.name.clone(),
            points: s.points.iter().copied().filter(keep).collect(),
        };
        self.series.iter().map(clean).filter(|s| !s.points.is_empty()).collect()
    }

    fn lines<'a, X, Y>(
        &self,
        mut chart: ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
        series: &[Series],
    ) -> Result<(), PlotError>
    where
        X: Ranged<ValueType = f64> + ValueFormatter<f64>,
        Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let number = |v: &f64| short(*v);
        let mut mesh = chart.configure_mesh();
        mesh.x_desc(&self.x).y_desc(&self.y).x_label_formatter(&number).y_label_formatter(&number);
        mesh.light_line_style(WHITE).draw().map_err(draw)?;
        for (i, s) in series.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            let line = LineSeries::new(s.points.iter().copied(), colour.stroke_width(2));
            let drawn = chart.draw_series(line).map_err(draw)?;
            drawn
                .label(&s.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        }
        // Charts of hundreds of lines (a line a peer) would be buried under their legend.
        if series.len() <= 12 {
            let mut labels = chart.configure_series_labels();
            labels.position(SeriesLabelPosition::UpperLeft).background_style(WHITE.mix(0.8));
            labels.border_style(BLACK).draw().map_err(draw)?;
        }
        Ok(())
    }
}

const COLOURS: [RGBColor; 6] = [
    RGBColor(0x1f, 0x77, 0xb4),
    RGBColor(0xd6, 0x27, 0x28),
    RGBColor(0x2c, 0xa0, 0x2c),
    RGBColor(0xff, 0x7f, 0x0e),
    RGBColor(0x94, 0x67, 0xbd),
    RGBColor(0x55, 0x55, 0x55),
];

fn draw(e: impl std::fmt::Display) -> PlotError {
    PlotError::Draw(e.to_string())
}

fn short(v: f64) -> String {
    match v.abs() {
        a if a >= 1e6 => format!("{:.3}", v).trim_end_matches('0').trim_end_matches('.').to_owned(),
        a if a >= 100.0 => format!("{v:.0}"),
        _ => format!("{v:.2}").trim_end_matches('0').trim_end_matches('.').to_owned(),
    }
}

type Span = (f64, f64);

/// What the axes must show; a linear y axis starts at 0. `None` if there is no point.
fn bounds(series: &[Series], log: bool) -> Option<(Span, Span)> {
    let mut points = series.iter().flat_map(|s| s.points.iter().copied()).peekable();
    let &(x, y) = points.peek()?;
    let (mut xs, mut ys) = ((x, x), (y, y));
    for (x, y) in points {
        xs = (xs.0.min(x), xs.1.max(x));
        ys = (ys.0.min(y), ys.1.max(y));
    }
    // Above the lines there is room for the legend.
    if log {
        let tall = (ys.1 / ys.0).powf(0.25).max(1.2);
        return Some((
            widen((xs.0 * 0.8, xs.1 * 1.25), xs.0 * 2.0),
            widen((ys.0 * 0.7, ys.1 * tall), ys.0 * 2.0),
        ));
    }
    let ys = (ys.0.min(0.0), ys.1 * 1.25);
    Some((widen(xs, xs.0 + 1.0), widen(ys, ys.0 + 1.0)))
}

/// A span of one point has no width, which no axis can show.
fn widen(s: Span, end: f64) -> Span {
    if s.1 > s.0 { s } else { (s.0, end) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut t = Table::new(&["n", "time, s", "note"]);
        t.push(vec![Cell::Int(1), Cell::Real(0.5), Cell::Text("a \"b\"".into())]);
        t.push(vec![Cell::Int(10), Cell::Empty]);
        t
    }

    #[test]
    fn csv_quotes_what_would_break_a_line() {
        assert_eq!(table().to_csv(), "n,\"time, s\",note\n1,0.5,\"a \"\"b\"\"\"\n10,,\n");
    }

    #[test]
    fn text_lines_columns_up() {
        assert_eq!(table().to_text(), " n  time, s   note\n 1    0.500  a \"b\"\n10        -      -\n");
    }

    #[test]
    fn charts_are_svg_whatever_the_points() {
        for (log, points) in [
            (false, vec![(1.0, 2.0), (2.0, 3.0)]),
            (true, vec![(1.0, 2.0), (1000.0, 3.0), (0.0, 5.0)]),
            (false, vec![(5.0, 0.0)]),
            (true, vec![(5.0, 5.0)]),
        ] {
            let series = vec![Series { name: "a < b".into(), points }];
            let c = Chart { title: "t & u".into(), x: "x".into(), y: "y".into(), log, series };
            let svg = c.to_svg().unwrap();
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
            assert!(svg.contains("polyline") || svg.contains("path") || svg.contains("circle"));
            assert!(svg.contains("t &amp; u") && !svg.contains("a < b"));
        }
    }

    #[test]
    fn a_chart_without_points_is_an_error_not_a_panic() {
        let c = Chart { title: String::new(), x: String::new(), y: String::new(), log: true, series: vec![] };
        assert!(matches!(c.to_svg(), Err(PlotError::Empty)));
    }
}
