// Package progress shows steps that take time: a live line with elapsed time and estimate on a
// terminal, plain lines elsewhere.
package progress

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// Printer shows any number of steps at once. It is safe for concurrent use.
type Printer struct {
	mu    sync.Mutex
	out   io.Writer
	live  bool
	width func() int
	steps []*Step
	drawn int // lines of the live region now on the screen
	stop  chan struct{}
	frame int
}

// New returns a Printer on out, which is live when out is a terminal. NO_COLOR is honoured (no-color.org).
func New(out io.Writer) *Printer {
	p := &Printer{out: out, width: func() int { return 80 }}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		p.live = true
		p.width = func() int {
			if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 20 {
				return w
			}
			return 80
		}
	}
	return p
}

// Step is one thing under way.
type Step struct {
	p        *Printer
	name     string
	note     string
	start    time.Time
	estimate time.Duration
	said     time.Time
}

// Start begins a step. estimate is how long it is thought to take; 0 when nobody knows.
func (p *Printer) Start(name string, estimate time.Duration) *Step {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &Step{p: p, name: name, start: time.Now(), estimate: estimate}
	s.said = s.start
	p.steps = append(p.steps, s)
	if !p.live {
		fmt.Fprintf(p.out, "… %s%s\n", name, about(estimate))
		return s
	}
	if p.stop == nil {
		p.stop = make(chan struct{})
		go p.animate(p.stop)
	}
	p.draw()
	return s
}

// Note says what the step is doing now. Elsewhere than on a terminal it is printed at most every 15 seconds.
func (s *Step) Note(format string, args ...any) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	s.note = fmt.Sprintf(format, args...)
	if !s.p.live {
		if time.Since(s.said) >= 15*time.Second {
			s.said = time.Now()
			fmt.Fprintf(s.p.out, "  %s: %s (%s)\n", s.name, s.note, Duration(time.Since(s.start)))
		}
		return
	}
	s.p.draw()
}

// Done ends the step; result, if any, is shown beside its name.
func (s *Step) Done(result string) { s.end("✓", "32", result) }

// Fail ends the step as failed.
func (s *Step) Fail(err error) { s.end("✗", "31", err.Error()) }

func (s *Step) end(mark, colour, result string) {
	p := s.p
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, other := range p.steps {
		if other == s {
			p.steps = append(p.steps[:i], p.steps[i+1:]...)
			break
		}
	}
	line := s.name
	if result != "" {
		line += "  " + result
	}
	elapsed := Duration(time.Since(s.start))
	if !p.live {
		fmt.Fprintf(p.out, "%s %s (%s)\n", mark, line, elapsed)
		return
	}
	p.erase()
	fmt.Fprintf(p.out, "%s %s %s\n", paint(mark, colour), line, paint(elapsed, "2"))
	p.draw()
	if len(p.steps) == 0 && p.stop != nil {
		close(p.stop)
		p.stop = nil
	}
}

// Println prints a line above the steps under way.
func (p *Printer) Println(args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	fmt.Fprintln(p.out, args...)
	p.draw()
}

// Close leaves the screen as it is and ends the animation. Steps that have not ended stay as their last line.
func (p *Printer) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stop != nil {
		close(p.stop)
		p.stop = nil
	}
	p.drawn = 0
}

func (p *Printer) animate(stop chan struct{}) {
	t := time.NewTicker(120 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case <-t.C:
			p.mu.Lock()
			p.frame++
			p.draw()
			p.mu.Unlock()
		}
	}
}

var frames = []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")

func (p *Printer) erase() {
	if p.drawn > 0 {
		fmt.Fprintf(p.out, "\x1b[%dA\x1b[J", p.drawn)
		p.drawn = 0
	}
}

func (p *Printer) draw() {
	if !p.live {
		return
	}
	p.erase()
	width := p.width()
	for _, s := range p.steps {
		elapsed := time.Since(s.start)
		line := string(frames[p.frame%len(frames)]) + " " + s.name
		tail := " " + Duration(elapsed)
		if s.estimate > 0 {
			tail = " " + bar(elapsed, s.estimate) + tail + " of about " + Duration(s.estimate)
		}
		if s.note != "" {
			tail += "  " + s.note
		}
		fmt.Fprintln(p.out, clip(line+tail, width-1))
		p.drawn++
	}
}

// bar fills up to the estimate, and then stays a little short of full: an estimate is not a promise.
func bar(elapsed, estimate time.Duration) string {
	const cells = 20
	n := int(float64(cells) * float64(elapsed) / float64(estimate))
	n = min(n, cells-1)
	return "[" + strings.Repeat("█", n) + strings.Repeat("░", cells-n) + "]"
}

func clip(s string, width int) string {
	r := []rune(s)
	if len(r) > width {
		return string(r[:width-1]) + "…"
	}
	return s
}

func about(d time.Duration) string {
	if d <= 0 {
		return ""
	}
	return " (about " + Duration(d) + ")"
}

func paint(s, code string) string {
	if os.Getenv("NO_COLOR") != "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// Duration prints a duration as people say it: 340 ms, 4.2 s, 3 min 05 s.
func Duration(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	d = d.Round(time.Second)
	return fmt.Sprintf("%d min %02d s", int(d.Minutes()), int(d.Seconds())%60)
}
