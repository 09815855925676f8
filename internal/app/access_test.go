package app

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	memorystore "github.com/cloister-dev/cloister/internal/arm/resourcestore/memory"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

const (
	testGroup    = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg"
	testRegistry = testGroup + "/providers/Microsoft.ContainerRegistry/registries/r"
)

// What principals may do in a registry follows from their roles on it and above it.
func TestRegistryAccess(t *testing.T) {
	store := memorystore.New()
	a := newAccess(store)
	assign := func(name, scope, principal, role string) {
		write(t, store, scope+"/providers/Microsoft.Authorization/roleAssignments/"+name,
			`{"properties":{"principalId":"`+principal+`","roleDefinitionId":"/subscriptions/x/providers/Microsoft.Authorization/roleDefinitions/`+role+`"}}`)
	}
	if got := a.registry(resourceid.MustParse(testRegistry)); len(got) != 0 {
		t.Errorf("without assignments: %v", got)
	}
	assign("1", testRegistry, "puller", "7f951dda-4ed3-4680-a7ca-43fe172d538d")                 // AcrPull
	assign("2", testRegistry, "pusher", "8311e382-0749-4cb8-b61a-304f252e45ec")                 // AcrPush
	assign("3", testGroup, "owner", roleOwner)                                                  // inherited
	assign("4", testRegistry+"x", "stranger", "7f951dda-4ed3-4680-a7ca-43fe172d538d")           // another registry
	assign("5", testRegistry, "reader of repositories", "b93aa761-3e63-49ed-ac28-beffa264f7ac") // ABAC
	assign("6", testGroup, "network contributor", "4d97b98b-1d4f-4787-a291-c67834d212e7")
	got := a.registry(resourceid.MustParse(strings.ToUpper(testRegistry)))
	for principal, want := range map[string][]string{
		"puller": {"pull", "list"}, "pusher": {"pull", "list", "push"}, "owner": {"pull", "list", "push", "delete"}, "stranger": nil, "network contributor": nil,
		"reader of repositories": {"pull"},
	} {
		have := slices.Sorted(slices.Values(got[principal]))
		slices.Sort(want)
		if !slices.Equal(have, want) {
			t.Errorf("%s may %v, want %v", principal, have, want)
		}
	}
}

// A role that is given or taken away counts with the next request.
func TestAccessIsNotStale(t *testing.T) {
	store := memorystore.New()
	a := newAccess(store)
	may := func(want bool) {
		t.Helper()
		got, err := a.Authorize(t.Context(), resourcetype.Principal{ObjectID: "P"}, "Microsoft.Network/virtualNetworks/read", resourceid.MustParse(testVNet))
		if err != nil || got != want {
			t.Errorf("allowed: %v, %v; want %v", got, err, want)
		}
	}
	may(false)
	id := resourceid.MustParse(testGroup + "/providers/Microsoft.Authorization/roleAssignments/1")
	write(t, store, id.String(), `{"properties":{"principalId":"p","roleDefinitionId":"/x/`+roleContributor+`"}}`)
	may(true)
	may(true)
	r, err := store.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	r.Deleting = true
	if err := store.Apply(t.Context(), resourcestore.Change{Put: &r, Revision: r.Revision}); err != nil {
		t.Fatal(err)
	}
	may(false)
	if err := store.Apply(t.Context(), resourcestore.Change{Delete: &id, Revision: resourcestore.Any}); err != nil {
		t.Fatal(err)
	}
	may(false)
}

// A data directory has one service; the next one waits for the one that is just ending.
func TestLock(t *testing.T) {
	dir := t.TempDir()
	first, err := lockData(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockData(dir); !errors.Is(err, errLocked) {
		t.Errorf("a second lock: %v", err)
	}
	got := make(chan error, 1)
	go func() {
		f, err := awaitLock(t.Context(), dir)
		if err == nil {
			f.Close()
		}
		got <- err
	}()
	select {
	case err := <-got:
		t.Fatalf("the lock was given twice: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	first.Close()
	if err := <-got; err != nil {
		t.Errorf("after the first ended: %v", err)
	}
	if _, err := awaitLock(t.Context(), filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}

func TestInstance(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	in, err := EnsureInstance(dir)
	if err != nil || len(in.ID) != 6 {
		t.Fatalf("%+v, %v", in, err)
	}
	if again, err := EnsureInstance(dir); err != nil || again != in {
		t.Errorf("%+v, %v", again, err)
	}
	if st, err := os.Stat(instancePath(dir)); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v: it holds a secret", st.Mode(), err)
	}
	if err := os.WriteFile(instancePath(dir), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := EnsureInstance(dir); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("damaged: %v", err)
	}
	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "photo.jpg"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := EnsureInstance(foreign); err == nil || !strings.Contains(err.Error(), "half-deleted or a foreign") {
		t.Errorf("foreign: %v", err)
	}
}

func TestDataDirectoryFindings(t *testing.T) {
	dir := t.TempDir()
	if f := dataDirectory(filepath.Join(dir, "new")); !f.OK {
		t.Errorf("new: %+v", f)
	}
	if f := dataDirectory(dir); !f.OK {
		t.Errorf("empty: %+v", f)
	}
	if _, err := EnsureInstance(filepath.Join(dir, "good")); err != nil {
		t.Fatal(err)
	}
	if f := dataDirectory(filepath.Join(dir, "good")); !f.OK {
		t.Errorf("good: %+v", f)
	}
	for name, file := range map[string]string{"half": "cloister.db", "damaged": "instance.json"} {
		sub := filepath.Join(dir, name)
		if err := os.Mkdir(sub, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sub, file), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		if f := dataDirectory(sub); f.OK || !f.Fatal || f.Remedy == "" || f.Detail == "" {
			t.Errorf("%s: %+v", name, f)
		}
	}
	if f := space("space", dir, 1<<62); f.OK || !f.Fatal || !strings.Contains(f.Detail, "GiB free") {
		t.Errorf("no room: %+v", f)
	}
	if f := space("space", filepath.Join(dir, "not", "yet"), 1); !f.OK {
		t.Errorf("room: %+v", f)
	}
}
