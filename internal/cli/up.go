package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/spf13/cobra"

	"github.com/cloister-dev/cloister/internal/cli/progress"
	"github.com/cloister-dev/cloister/internal/lib/adminapi"
	"github.com/cloister-dev/cloister/internal/lib/atomicfile"
	"github.com/cloister-dev/cloister/internal/lib/layout"
	"github.com/cloister-dev/cloister/internal/lib/settings"
)

// reporter shows steps through a progress.Printer.
type reporter struct{ p *progress.Printer }

func (r reporter) Start(name string, seconds float64) (func(string), func(string, error)) {
	s := r.p.Start(name, time.Duration(seconds*float64(time.Second)))
	return func(note string) { s.Note("%s", note) }, func(result string, err error) {
		if err != nil {
			s.Fail(err)
			return
		}
		s.Done(result)
	}
}

// WithProgress runs fn with a reporter that shows its steps.
func WithProgress(fn func(Reporter) error) error {
	p := progress.New(os.Stderr)
	defer p.Close()
	return fn(reporter{p})
}

func (g *globals) up() *cobra.Command {
	var asked settings.Settings
	var soon bool
	c := &cobra.Command{
		Use:   "up",
		Short: "Start Cloister, building what is missing the first time",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			chosen, err := settings.Load(g.dataDir)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("conversion") {
				chosen.Conversion = asked.Conversion
			}
			if cmd.Flags().Changed("listen") {
				chosen.Listen = asked.Listen
			}
			if cmd.Flags().Changed("throttling") {
				chosen.Throttling = asked.Throttling
			}
			if cmd.Flags().Changed("azure-timing") {
				chosen.AzureTiming = asked.AzureTiming
			}
			if cmd.Flags().Changed("no-azure-timing") {
				chosen.AzureTiming = !soon
			}
			if err := chosen.Validate(); err != nil {
				return err
			}
			return g.runUp(cmd.Context(), chosen, slices.ContainsFunc([]string{"conversion", "listen", "throttling", "azure-timing", "no-azure-timing"}, cmd.Flags().Changed))
		},
	}
	c.Flags().StringVar(&asked.Listen, "listen", "", "loopback address and port, such as 127.0.0.1:8443, at which the host's own programs reach the service, see cloister env; kept until it is said again")
	c.Flags().StringVar(&asked.Conversion, "conversion", settings.ConversionAtOnce,
		`how a cluster is isolated later: "at-once" by one update of artifact source and outbound type, or "in-steps" as on Azure since 2026; kept until it is said again`)
	c.Flags().StringVar(&asked.Throttling, "throttling", settings.ThrottlingOff,
		`what becomes of too many requests on clusters and node pools: "azure" refuses them with 429 and Retry-After, by AKS's limits, "off" answers them; kept until it is said again`)
	c.Flags().BoolVar(&asked.AzureTiming, "azure-timing", false, "let new nodes wait as long as Azure's do for what does not answer, minutes for each, before they fail; kept until --no-azure-timing is said")
	c.Flags().BoolVar(&soon, "no-azure-timing", false, "let a failure of new nodes that is certain show within ten seconds, which is the default")
	c.MarkFlagsMutuallyExclusive("azure-timing", "no-azure-timing")
	return c
}

// runUp starts an installation with the settings, which are written down first when they were said anew.
func (g *globals) runUp(ctx context.Context, chosen settings.Settings, write bool) error {
	for _, f := range g.deps.Check(ctx, g.dataDir, g.cacheDir) {
		if f.Fatal && !f.OK {
			return fmt.Errorf("%s: %s. %s", f.Name, f.Detail, f.Remedy)
		}
	}
	p := progress.New(os.Stderr)
	defer p.Close()
	if err := g.deps.Prepare(ctx, g.dataDir, g.cacheDir, reporter{p}); err != nil {
		return err
	}
	if write {
		if err := atomicfile.WriteJSON(settings.Path(g.dataDir), chosen, 0o600); err != nil {
			return err
		}
	}
	l, err := g.installation()
	if err != nil {
		return err
	}
	c := newClient(l)
	if s, err := c.status(ctx); err == nil && s.Ready && s.Program == g.deps.Program && s.Listen == chosen.Listen {
		p.Println("Cloister is already up. Data in " + g.dataDir + ", instance " + l.Instance + ".")
		return nil
	}
	step := p.Start("Starting the service", 2*time.Second)
	if err := g.startService(ctx, l, c, step); err != nil {
		step.Fail(err)
		return errors.New("the service did not start; its log is " + l.Log("serve"))
	}
	step.Done("instance " + l.Instance)
	if s, err := c.status(ctx); err == nil && s.Listen != chosen.Listen {
		return errors.New(s.Problem)
	}
	return nil
}

// startService starts `cloister serve` as a daemon and returns when it is ready. One of another version is ended first.
func (g *globals) startService(ctx context.Context, l layout.Layout, c *client, step *progress.Step) error {
	unit := systemdUnit(l.Instance)
	if _, err := c.status(ctx); err == nil {
		step.Note("replacing the running version")
		if err := c.do(ctx, http.MethodPost, "/cloister/v1/exit", nil, struct{}{}, nil); err != nil {
			return err
		}
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(l.Log("serve")), 0o700); err != nil {
		return err
	}
	if err := os.MkdirAll(l.RunDir, 0o711); err != nil {
		return err
	}
	log, err := os.OpenFile(l.Log("serve"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	watch, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer watch.Close()
	if err := watch.Add(l.RunDir); err != nil {
		return err
	}
	args := []string{"--data-dir", g.dataDir, "--cache-dir", g.cacheDir, "serve"}
	exited := make(chan error, 1)
	if unit != "" {
		// systemd tells when the service listens, or that it ended before.
		if err := startUnit(ctx, unit, l.Log("serve"), append([]string{exe}, args...)); err != nil {
			return err
		}
	} else {
		service := exec.Command(exe, args...)
		service.Dir, service.Stdout, service.Stderr = "/", log, log
		service.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := service.Start(); err != nil {
			return err
		}
		go func() { exited <- service.Wait() }()
	}
	// Ready is told by the status call, which the service answers as soon as its socket is there.
	for {
		s, err := c.status(ctx)
		if err == nil && s.Problem != "" && !s.Ready {
			return errors.New(s.Problem)
		}
		if err == nil && s.Ready {
			return nil
		}
		if err == nil {
			if err := c.awaitReady(ctx); err != nil {
				return err
			}
			continue
		}
		select {
		case <-watch.Events:
		case err := <-exited:
			return fmt.Errorf("it ended: %v: %s", err, lastLine(l.Log("serve")))
		case <-time.After(time.Second): // the socket can be there before it is listened on
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// awaitReady returns when the service says that it is ready or in trouble; the service holds the answer back till then.
func (c *client) awaitReady(ctx context.Context) error {
	var s adminapi.Status
	return c.do(ctx, http.MethodGet, "/cloister/v1/ready", nil, nil, &s)
}

// systemdUnit is the service's unit where systemd runs the machine (sd_booted(3)), else "".
func systemdUnit(instance string) string {
	if info, err := os.Lstat("/run/systemd/system"); err != nil || !info.IsDir() {
		return ""
	}
	return "cloister-" + instance + ".service"
}

// startUnit runs a command as a transient unit and returns when it has told systemd that it listens. One of
// the same name is ended first: it is another version's, or one that systemd tries to start again and again.
func startUnit(ctx context.Context, unit, log string, command []string) error {
	if err := stopUnit(ctx, unit); err != nil {
		return err
	}
	args := []string{"--unit=" + unit, "--collect", "--quiet", "--description=Cloister",
		"--property=Type=notify", "--property=TimeoutStartSec=infinity", "--property=KillMode=process",
		"--property=Restart=on-failure", "--property=RestartSec=1", "--property=StartLimitIntervalSec=0",
		"--property=StandardOutput=append:" + log, "--property=StandardError=append:" + log, "--"}
	out, err := exec.CommandContext(ctx, "systemd-run", append(args, command...)...).CombinedOutput()
	if err == nil {
		return nil
	}
	// Else systemd would go on trying what was said to have failed.
	return errors.Join(fmt.Errorf("it ended: %s (systemd-run: %w: %s)", lastLine(log), err, strings.TrimSpace(string(out))),
		stopUnit(context.WithoutCancel(ctx), unit))
}

// stopUnit ends a unit; that there is none is no error.
func stopUnit(ctx context.Context, unit string) error {
	out, err := exec.CommandContext(ctx, "systemctl", "stop", unit).CombinedOutput()
	var status *exec.ExitError
	if errors.As(err, &status) && status.ExitCode() == 5 { // not loaded (systemctl(1), "Exit status")
		return nil
	}
	if err != nil {
		return fmt.Errorf("systemctl stop %s: %w: %s", unit, err, strings.TrimSpace(string(out)))
	}
	return nil
}

func (g *globals) down() *cobra.Command {
	var purge bool
	c := &cobra.Command{
		Use:   "down",
		Short: "Stop Cloister and everything it runs; data stays unless --purge",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := progress.New(os.Stderr)
			defer p.Close()
			return g.deps.Teardown(cmd.Context(), g.dataDir, g.cacheDir, purge, reporter{p})
		},
	}
	c.Flags().BoolVar(&purge, "purge", false, "remove the data directory too (built artifacts stay)")
	return c
}
