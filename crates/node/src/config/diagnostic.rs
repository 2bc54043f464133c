//! Problems of configuration files, shown as a compiler shows its errors: file, line, what is wrong, what to write.
//!
//! A [`Diagnostic`] points at bytes of a [`Source`]; [`Diagnostics`] collects them, so that one run shows all that is
//! to be mended. Rendering is annotate-snippets' (rustc's own look), with or without colours.

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file that was read, for pointing into.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// Where it was read.
    pub path: PathBuf,
    /// What it said.
    pub text: String,
}

impl Source {
    /// A file's name and text.
    #[must_use]
    pub fn new(path: &Path, text: String) -> Arc<Self> {
        Arc::new(Self { path: path.to_path_buf(), text })
    }

    /// Line number of a byte, from 1.
    #[must_use]
    pub fn line(&self, byte: usize) -> usize {
        let end = byte.min(self.text.len());
        self.text.as_bytes()[..end].iter().filter(|b| **b == b'\n').count() + 1
    }

    /// `span`, clipped to the text and to the boundaries of characters, never beyond the end of its first line.
    fn clip(&self, span: &Range<usize>) -> Range<usize> {
        let floor = |mut at: usize| {
            at = at.min(self.text.len());
            while !self.text.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        let start = floor(span.start);
        let line = self.text[start..].find('\n').map_or(self.text.len(), |n| start + n);
        let end = floor(span.end).clamp(start, line.max(start));
        start..end
    }
}

/// Is the file unusable, or merely doubtful?
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It works, but not as well as it could.
    Warning,
    /// It is refused.
    Error,
}

/// A place in a file, with a remark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The file.
    pub source: Arc<Source>,
    /// Bytes of its text.
    pub span: Range<usize>,
    /// The remark; may be empty.
    pub label: String,
}

impl Mark {
    /// A place with a remark.
    pub fn new(source: &Arc<Source>, span: Range<usize>, label: impl Into<String>) -> Self {
        Self { source: Arc::clone(source), span, label: label.into() }
    }
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one line.
    pub title: String,
    /// Where; the first place is the one to mend. Empty when no file could be read.
    pub marks: Vec<Mark>,
    /// What to write instead, or what to do.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error without a place yet.
    pub fn error(title: impl Into<String>) -> Self {
        Self { severity: Severity::Error, title: title.into(), marks: Vec::new(), help: None }
    }

    /// A warning without a place yet.
    pub fn warning(title: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(title) }
    }

    /// The same, pointing at a place.
    #[must_use]
    pub fn at(mut self, source: &Arc<Source>, span: Range<usize>, label: impl Into<String>) -> Self {
        self.marks.push(Mark::new(source, span, label));
        self
    }

    /// The same, pointing at a mark made before.
    #[must_use]
    pub fn mark(mut self, mark: Mark) -> Self {
        self.marks.push(mark);
        self
    }

    /// The same, with the remedy.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// `file:line: what is wrong; what to do`, for logs and standing warnings.
    #[must_use]
    pub fn one_line(&self) -> String {
        let mut text = String::new();
        if let Some(mark) = self.marks.first() {
            text = format!("{}:{}: ", mark.source.path.display(), mark.source.line(mark.span.start));
        }
        text.push_str(&self.title);
        if let Some(help) = &self.help {
            text.push_str("; ");
            text.push_str(help);
        }
        text
    }

    fn render(&self, renderer: &Renderer) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = level
            .primary_title(&self.title)
            .elements(std::iter::empty::<Snippet<'_, annotate_snippets::Annotation<'_>>>());
        // one snippet per file, in order of first mention
        let mut files: Vec<&Arc<Source>> = Vec::new();
        for mark in &self.marks {
            if !files.iter().any(|f| Arc::ptr_eq(f, &mark.source)) {
                files.push(&mark.source);
            }
        }
        for file in files {
            let marks = self.marks.iter().enumerate().filter(|(_, m)| Arc::ptr_eq(&m.source, file));
            let snippet = Snippet::source(file.text.as_str())
                .path(file.path.to_string_lossy().into_owned())
                .annotations(marks.map(|(index, mark)| {
                    let kind = if index == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
                    let annotation = kind.span(file.clip(&mark.span));
                    if mark.label.is_empty() { annotation } else { annotation.label(mark.label.as_str()) }
                }));
            group = group.element(snippet);
        }
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        renderer.render(&[group])
    }
}

/// All problems of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// Adds one.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    /// Is there anything that forbids to use the configuration?
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.errors() > 0
    }

    /// Number of errors.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.0.iter().filter(|d| d.severity == Severity::Error).count()
    }

    /// Number of warnings.
    #[must_use]
    pub fn warnings(&self) -> usize {
        self.0.len() - self.errors()
    }

    /// As a compiler would print them; `colour` for terminals.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let renderer = renderer.decor_style(DecorStyle::Ascii);
        let mut text: Vec<String> = self.0.iter().map(|d| d.render(&renderer)).collect();
        text.push(String::new());
        text.join("\n\n").trim_end().to_owned()
    }

    /// Each in one line, for the log.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.0.iter().map(Diagnostic::one_line)
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}
