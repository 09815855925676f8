package reconciletest

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/cloister-dev/cloister/internal/arm/resourcemanager"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype/resourcetypetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type vm struct {
	Location   string         `json:"location,omitempty"`
	Properties map[string]any `json:"properties,omitempty"`
	Cloister   struct {
		Handle string `json:"handle,omitempty"`
	} `json:"cloister"`
}

// vms is a type that makes a disk on the machine and a child document. careless forgets to write the
// disk's name down before it makes the disk.
func vms(careless bool, act func(h *resourcetypetest.Harness) (resourcemanager.Answer, error), setup func(*resourcetypetest.Harness), want int) func(*testing.T) Scenario {
	return func(*testing.T) Scenario {
		disks := map[string]bool{}
		names := 0
		return Scenario{
			Definitions: func(p *Process) []resourcetype.Definition {
				return []resourcetype.Definition{
					resourcetypetest.Stub("Microsoft.Test/vms/parts"),
					resourcetype.Define(resourcetype.Spec[vm]{
						Name: "Microsoft.Test/vms",
						Reconcile: func(ctx context.Context, r *resourcetype.Reconciliation[vm]) (resourcetype.Result, error) {
							if r.Deleting {
								return resourcetype.Result{}, p.Effect(func() error { delete(disks, r.Model.Cloister.Handle); return nil })
							}
							if r.Model.Cloister.Handle == "" {
								names++
								r.Model.Cloister.Handle = strings.Repeat("d", names)
							}
							if !careless {
								if err := r.Save(ctx); err != nil {
									return resourcetype.Result{}, err
								}
							}
							if err := p.Effect(func() error { disks[r.Model.Cloister.Handle] = true; return nil }); err != nil {
								return resourcetype.Result{}, err
							}
							_, err := r.Client.Put(ctx, r.ID.Child("parts", "p"), "2024-01-01", map[string]any{"properties": map[string]any{"x": 1}})
							return resourcetype.Result{}, err
						},
					}),
				}
			},
			Setup: setup,
			Act:   act,
			Check: func(t *testing.T, h *resourcetypetest.Harness) {
				if len(disks) != want {
					t.Errorf("%d disks, want %d", len(disks), want)
				}
				left, err := h.Store.List(t.Context(), resourcestore.Filter{Under: h.Group()})
				if err != nil || len(left) != 2*want {
					t.Errorf("%d documents, %v; want %d", len(left), err, 2*want)
				}
			},
		}
	}
}

func create(h *resourcetypetest.Harness) (resourcemanager.Answer, error) {
	return h.Do(http.MethodPut, h.ID("Microsoft.Test/vms", "v"), "", map[string]any{"location": "eastus"})
}

func TestConverges(t *testing.T) {
	t.Run("create", func(t *testing.T) { CrashEverywhere(t, vms(false, create, nil, 1)) })
	t.Run("delete", func(t *testing.T) {
		CrashEverywhere(t, vms(false,
			func(h *resourcetypetest.Harness) (resourcemanager.Answer, error) {
				return h.Do(http.MethodDelete, h.ID("Microsoft.Test/vms", "v"), "", nil)
			},
			func(h *resourcetypetest.Harness) {
				h.Put(h.ID("Microsoft.Test/vms", "v"), map[string]any{"location": "eastus"})
			}, 0))
	})
}

// carelessEnv has the test binary run the careless type, which must fail.
const carelessEnv = "CLOISTER_RECONCILETEST_CARELESS"

func TestCareless(t *testing.T) {
	if os.Getenv(carelessEnv) == "" {
		return // only TestFindsCarelessness runs it
	}
	CrashEverywhere(t, vms(true, create, nil, 1))
}

func TestFindsCarelessness(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestCareless$")
	cmd.Env = append(os.Environ(), carelessEnv+"=1")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || !strings.Contains(string(out), "2 disks, want 1") {
		t.Errorf("a Reconcile that makes a thing before its name is stored passes: %v\n%s", err, out)
	}
}
