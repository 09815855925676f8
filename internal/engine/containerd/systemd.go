package containerd

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// systemd reports whether systemd runs the machine (sd_booted(3)).
func systemd() bool {
	info, err := os.Lstat("/run/systemd/system")
	return err == nil && info.IsDir()
}

func (d *Daemon) unit() string { return "cloister-" + d.l.Instance + "-containerd.service" }

// spawnUnit starts the daemon as a transient unit and returns when it has told systemd that it is
// ready. Delegate: the cgroups below are ours. KillMode=process: the shims, and so the containers,
// stay when containerd is restarted. Restart: systemd heals it while `cloister serve` is away.
func (d *Daemon) spawnUnit(ctx context.Context) error {
	args := []string{
		"--quiet", "--collect", "--unit", d.unit(), "--service-type=notify",
		"--description=Cloister " + d.l.Instance + " containerd",
	}
	for _, property := range []string{
		"Delegate=yes", "KillMode=process", "Restart=always", "RestartSec=1",
		"LimitNOFILE=infinity", "LimitCORE=0", "TasksMax=infinity", "OOMScoreAdjust=-999",
		"StandardOutput=append:" + d.log(), "StandardError=append:" + d.log(),
	} {
		args = append(args, "--property="+property)
	}
	for _, e := range environ() {
		args = append(args, "--setenv="+e)
	}
	args = append(args, "--")
	args = append(args, d.args()...)
	return command(ctx, "systemd-run", args...)
}

// stopUnit stops the unit, so that systemd does not start it again. A unit that is not loaded is no error.
func (d *Daemon) stopUnit(ctx context.Context) error {
	state, err := exec.CommandContext(ctx, "systemctl", "show", "--property=LoadState", "--value", d.unit()).Output()
	if err == nil && strings.TrimSpace(string(state)) == "not-found" {
		return nil
	}
	return command(ctx, "systemctl", "stop", d.unit())
}

func command(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}
