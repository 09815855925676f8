package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// commands are what stories can say beside testscript's own commands, az, kubectl and cloister.
var commands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"installation": cmdInstallation,
	"leftovers":    cmdLeftovers,
	"set":          cmdSet,
	"packets":      cmdPackets,
	"process":      cmdProcess,
	"node":         cmdNode,
	"eventually":   cmdEventually,
	"foreign":      cmdForeign,
	"page":         cmdPage,
	"failed":       cmdFailed,
	"mends":        cmdMends,
}

func usage(ts *testscript.TestScript, ok bool, text string) {
	if !ok {
		ts.Fatalf("usage: %s", text)
	}
}

// cmdInstallation makes the installation in data directory $WORK/NAME the one that commands speak to.
func cmdInstallation(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1, "installation NAME")
	s := storyOf(ts)
	s.learn()
	ts.Check(s.use(args[0]))
	ts.Setenv("CLOISTER_DATA_DIR", s.current)
}

// cmdLeftovers succeeds when the installation has something on the machine: a story that ends well says
// "! leftovers". Words restrict it to what mentions one of them.
func cmdLeftovers(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, len(args) >= 1, "[!] leftovers INSTALLATION [WORD…]")
	s := storyOf(ts)
	s.learn()
	dir := filepath.Join(s.env.WorkDir, args[0])
	if s.instances[dir] == "" {
		ts.Fatalf("installation %s was never started", args[0])
	}
	var found []string
	for _, l := range leftovers(s.instances[dir], dir) {
		fits := len(args) == 1
		for _, word := range args[1:] {
			fits = fits || strings.Contains(l, word)
		}
		if fits {
			found = append(found, l)
		}
	}
	ts.Logf("%s", strings.Join(found, "\n"))
	if neg && len(found) > 0 {
		ts.Fatalf("%d things are left", len(found))
	}
	if !neg && len(found) == 0 {
		ts.Fatalf("nothing is left")
	}
}

// cmdSet stores the last command's output in a variable; with a pattern, what its first group matched.
func cmdSet(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && (len(args) == 1 || len(args) == 2), "set VARIABLE [PATTERN]")
	value := strings.TrimSpace(ts.ReadFile("stdout"))
	if len(args) == 2 {
		pattern, err := regexp.Compile("(?m)" + args[1])
		ts.Check(err)
		found := pattern.FindStringSubmatch(value)
		if len(found) != 2 {
			ts.Fatalf("the last command printed nothing that matches %q, of one group", args[1])
		}
		value = found[1]
	}
	if value == "" {
		ts.Fatalf("the last command printed nothing")
	}
	ts.Setenv(args[0], value)
}

// cmdPackets compares the number of packets from virtual networks that arrived in `public` with the mark.
func cmdPackets(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1, "packets mark|same|more")
	s := storyOf(ts)
	st, err := s.status()
	ts.Check(err)
	var n uint64
	for _, c := range st.Public {
		n += c.Packets
	}
	ts.Logf("%d packets arrived in public, %d at the mark", n, s.packets)
	switch args[0] {
	case "mark":
		s.packets = n
	case "same":
		if n != s.packets {
			ts.Fatalf("%d packets got out", n-s.packets)
		}
	case "more":
		if n <= s.packets {
			ts.Fatalf("no packet arrived")
		}
	default:
		ts.Fatalf("usage: packets mark|same|more")
	}
}

// cmdProcess stores the process ID of one of the installation's processes. serve is found by its command
// line: of the installation's data directory and no other.
func cmdProcess(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, len(args) == 2, "[!] process VARIABLE NAME")
	s := storyOf(ts)
	pid := 0
	if args[1] == "serve" {
		pid = servePID(s.current)
	} else {
		st, err := s.status()
		ts.Check(err)
		for _, p := range st.Processes {
			if p.Name == args[1] && p.State == "running" {
				pid = int(p.PID)
			}
		}
	}
	if neg != (pid == 0) {
		ts.Fatalf("process %s: %d", args[1], pid)
	}
	ts.Setenv(args[0], strconv.Itoa(pid))
}

func servePID(dataDir string) int {
	processes, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range processes {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		words := strings.Split(strings.TrimRight(string(data), "\x00"), "\x00")
		if words[len(words)-1] == "serve" && strings.Contains(string(data), "--data-dir\x00"+dataDir+"\x00") {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			return pid
		}
	}
	return 0
}

// cmdNode runs a command in the network namespace of the installation's first node, with the node's
// resolver: as from the node itself, with the machine's programs.
func cmdNode(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, len(args) >= 1, "[!] node CMD…")
	s := storyOf(ts)
	s.learn()
	files, _ := filepath.Glob("/run/cloister-" + s.instances[s.current] + "/ns/node-*.net")
	if len(files) == 0 {
		ts.Fatalf("the installation has no node")
	}
	resolver := filepath.Join(s.env.WorkDir, "resolv.conf")
	ts.Check(os.WriteFile(resolver, resolverOf(ts, files[0]), 0o644))
	enter := []string{"--net=" + files[0], "unshare", "--mount", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, resolver}
	run(ts, neg, "nsenter", append(enter, args...))
}

// resolverOf is the resolv.conf of the machine behind a network namespace: its init's, the first process in it.
func resolverOf(ts *testscript.TestScript, namespace string) []byte {
	place, err := os.Stat(namespace)
	ts.Check(err)
	init := 0
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range processes {
		of, err := os.Stat(p + "/ns/net")
		if pid, _ := strconv.Atoi(filepath.Base(p)); err == nil && os.SameFile(of, place) && (init == 0 || pid < init) {
			init = pid
		}
	}
	conf, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(init), "root/etc/resolv.conf"))
	ts.Check(err)
	return conf
}

// eventuallyTimeout is longer than anything here takes.
const eventuallyTimeout = 2 * time.Minute

// cmdEventually repeats a command until it succeeds (negated: fails), or until what it prints matches, for
// what nothing tells when it happens.
func cmdEventually(ts *testscript.TestScript, neg bool, args []string) {
	var pattern *regexp.Regexp
	if len(args) > 0 {
		if text, ok := strings.CutPrefix(args[0], "-stdout="); ok {
			var err error
			pattern, err = regexp.Compile("(?m)" + text)
			ts.Check(err)
			args = args[1:]
		}
	}
	usage(ts, len(args) >= 1, "[!] eventually [-stdout=PATTERN] CMD…")
	for deadline := time.Now().Add(eventuallyTimeout); ; time.Sleep(200 * time.Millisecond) {
		err := ts.Exec(args[0], args[1:]...)
		good := err == nil && (pattern == nil || pattern.MatchString(ts.ReadFile("stdout")))
		if good != neg {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("still so after two minutes: %v", err)
		}
	}
}

func run(ts *testscript.TestScript, neg bool, name string, args []string) {
	err := ts.Exec(name, args...)
	if err != nil && !neg {
		ts.Fatalf("%s: %v", name, err)
	}
	if err == nil && neg {
		ts.Fatalf("%s succeeded", name)
	}
}
