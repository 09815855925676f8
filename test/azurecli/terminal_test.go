package azurecli

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a command may take. A create of three nodes takes less than a minute on two cores.
const patience = 10 * time.Minute

// prompt is what the shell shows when it waits; it tells the last command's status.
const prompt = `[status $?] `

var (
	prompted = regexp.MustCompile(`\[status (\d+)\] $`)
	asked    = regexp.MustCompile(`\([yY]/[nN]\):? ?$`)
	noise    = regexp.MustCompile(`\x1b\[[0-9;?]*[A-Za-z]|[^\n]*\r([^\n])`)
)

// terminal is a shell at a terminal, in which commands are typed as a person would.
type terminal struct {
	t      *testing.T
	screen *os.File // the side that is not the shell's
	output chan []byte
	shell  *exec.Cmd
	watch  func(shown string) // called with what a command has shown so far
}

// openTerminal starts the shell that a command ends in.
func openTerminal(t *testing.T, cmd *exec.Cmd) *terminal {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(screen.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatalf("unlock the terminal: %v", err)
	}
	n, err := unix.IoctlGetInt(int(screen.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatalf("find the terminal: %v", err)
	}
	own, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(own.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 50, Col: 200}); err != nil {
		t.Fatalf("size the terminal: %v", err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = own, own, own
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	cmd.Env = append(cmd.Env, "PS1="+prompt, "TERM=dumb", "COLUMNS=200")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	own.Close()
	x := &terminal{t: t, screen: screen, output: make(chan []byte, 16), shell: cmd}
	go func() {
		defer close(x.output)
		for {
			part := make([]byte, 64<<10)
			n, err := screen.Read(part)
			if n > 0 {
				x.output <- part[:n]
			}
			if err != nil {
				return
			}
		}
	}()
	if status, text := x.wait(); status != 0 {
		t.Fatalf("the shell did not come up: %s", text)
	}
	return x
}

// wait reads until the shell waits for the next command. A question is answered with yes.
func (x *terminal) wait() (status int, text string) {
	var seen []byte
	deadline := time.After(patience)
	for {
		select {
		case part, open := <-x.output:
			if !open {
				return -1, string(seen) + "\n(the shell ended)"
			}
			seen = append(seen, part...)
			if x.watch != nil {
				x.watch(string(seen))
			}
		case <-deadline:
			return -1, string(seen) + fmt.Sprintf("\n(no end after %v)", patience)
		}
		if m := prompted.FindSubmatch(seen); m != nil {
			status, _ = strconv.Atoi(string(m[1]))
			return status, clean(seen[:len(seen)-len(m[0])])
		}
		if asked.Match(seen) {
			x.enter("y")
			seen = append(seen, '\n') // it is answered
		}
	}
}

// clean is what a terminal would show in the end: without what was overwritten.
func clean(seen []byte) string {
	text := bytes.ReplaceAll(seen, []byte("\r\n"), []byte("\n"))
	text = noise.ReplaceAll(text, []byte("$1"))
	return strings.TrimSpace(string(text))
}

func (x *terminal) enter(line string) {
	if _, err := x.screen.WriteString(line + "\n"); err != nil {
		x.t.Fatalf("type %q: %v", line, err)
	}
}

// typed types a command and returns what was shown, without the command itself. It fails the test when the command fails.
func (x *terminal) typed(line string) string {
	x.t.Helper()
	status, text := x.try(line)
	if status != 0 {
		x.t.Fatalf("%s\nexit status %d:\n%s", line, status, text)
	}
	return text
}

func (x *terminal) try(line string) (int, string) {
	x.t.Helper()
	began := time.Now()
	x.enter(line)
	status, text := x.wait()
	text = strings.TrimSpace(strings.TrimPrefix(text, line))
	x.t.Logf("%6.1f s  %s", time.Since(began).Seconds(), line)
	return status, text
}

// close ends the shell as a person does.
func (x *terminal) close() {
	_, _ = x.screen.WriteString("exit\n") // it may have ended
	ended := make(chan error, 1)
	go func() { ended <- x.shell.Wait() }()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		_ = x.shell.Process.Signal(syscall.SIGHUP) // it may have ended
		<-ended
	}
	x.screen.Close()
}
