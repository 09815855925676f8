package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/cloister-dev/cloister/internal/lib/atomicfile"
)

// runtimeUnits is where units live that a reboot takes away (systemd.unit(5)). `cloister up` writes
// ours again, after it has made what containers need.
const runtimeUnits = "/run/systemd/system"

// systemd reports whether systemd runs the machine (sd_booted(3)).
func systemd() bool {
	info, err := os.Lstat(runtimeUnits)
	return err == nil && info.IsDir()
}

func (d *Daemon) unit() string     { return "cloister-" + d.l.Instance + "-containerd.service" }
func (d *Daemon) unitPath() string { return filepath.Join(runtimeUnits, d.unit()) }

// unitFile is the daemon as a unit. Delegate: the cgroups below are not systemd's to touch.
// KillMode=process: the shims, and so the containers, stay when containerd is restarted. Restart:
// systemd heals it while `cloister serve` is away, and never gives up.
func (d *Daemon) unitFile() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "[Unit]\nDescription=containerd of Cloister %s\nStartLimitIntervalSec=0\n\n[Service]\nType=notify\n", d.l.Instance)
	var words []string
	for _, arg := range d.args() {
		words = append(words, quoteUnit(arg))
	}
	fmt.Fprintf(&b, "ExecStart=%s\n", strings.Join(words, " "))
	for _, e := range environ() {
		fmt.Fprintf(&b, "Environment=%s\n", quoteUnit(e))
	}
	b.WriteString("Delegate=yes\nKillMode=process\nRestart=always\nRestartSec=1\nOOMScoreAdjust=-999\n" +
		"LimitNOFILE=infinity\nLimitNPROC=infinity\nLimitCORE=0\nTasksMax=infinity\n")
	for _, stream := range []string{"StandardOutput", "StandardError"} {
		fmt.Fprintf(&b, "%s=append:%s\n", stream, strings.ReplaceAll(d.log(), "%", "%%"))
	}
	return b.Bytes()
}

// quoteUnit quotes a word of a command line (systemd.service(5), "Command lines").
func quoteUnit(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%", "$", "$$").Replace(s) + `"`
}

// spawnUnit starts the unit and returns when the daemon has told systemd that it is ready. The unit is
// a file, not a transient one: systemd keeps a stopped unit whose shims live, and would refuse to make
// a transient unit of the same name.
func (d *Daemon) spawnUnit(ctx context.Context) error {
	if err := atomicfile.Write(d.unitPath(), d.unitFile(), 0o644); err != nil {
		return err
	}
	if err := command(ctx, "systemctl", "daemon-reload"); err != nil {
		return err
	}
	return command(ctx, "systemctl", "start", d.unit())
}

// stopUnit stops the unit, so that systemd does not start it again. One that was never made is no error.
func (d *Daemon) stopUnit(ctx context.Context) error {
	if _, err := os.Stat(d.unitPath()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return command(ctx, "systemctl", "stop", d.unit())
}

// removeUnit makes systemd forget the stopped unit.
func (d *Daemon) removeUnit(ctx context.Context) error {
	if err := os.Remove(d.unitPath()); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return command(ctx, "systemctl", "daemon-reload")
}

func command(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
