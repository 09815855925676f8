package wire

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloister-dev/cloister/internal/app/diagnosis"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/engine/privatedns"
)

// deaf is a machine on which every packet is lost, and on which that is noticed after as long as wait says.
type deaf struct {
	*modelled
	wait func() time.Duration
}

var errLost = errors.New("no answer")

func (d deaf) Lookup(context.Context, resourceid.ID, string) (privatedns.Answer, error) {
	time.Sleep(d.wait())
	return privatedns.Answer{}, errLost
}

func (d deaf) Connect(context.Context, string, netip.AddrPort) error {
	time.Sleep(d.wait())
	return errLost
}

func (d deaf) Manifest(context.Context, string, diagnosis.ManifestQuestion) (diagnosis.ManifestAnswer, error) {
	time.Sleep(d.wait())
	return diagnosis.ManifestAnswer{}, errLost
}

func (d deaf) Metadata(context.Context, string) error {
	time.Sleep(d.wait())
	return errLost
}

func (d deaf) Pods(context.Context, string) ([]diagnosis.Pod, error) {
	time.Sleep(d.wait())
	return nil, errLost
}

// TestLostPackets waits for all lost packets of a diagnosis at once, by the clock of a bubble, and tells of them in the same
// order whichever was given up first.
func TestLostPackets(t *testing.T) {
	i := install(t)
	i.own()
	for _, line := range []string{
		"network nsg rule create -g rg --nsg-name guard -n deny --priority 200 --direction Outbound --access Deny --protocol Tcp --destination-port-ranges 443",
		"network private-dns record-set a delete -g rg --zone-name privatelink.azurecr.io -n ownregistry --yes",
	} {
		i.types(line)
	}
	m := &modelled{i: i}
	snapshot, err := i.diagnoser(m).Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	on := func(wait func() time.Duration) *diagnosis.Diagnoser {
		return &diagnosis.Diagnoser{Machine: deaf{m, wait}, Snapshot: func(context.Context) (diagnosis.Snapshot, error) { return snapshot, nil }}
	}
	const lost = 1500 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		d := on(func() time.Duration { return lost })
		for _, name := range []string{"demo", "ownregistry", "myEndpoint", "privatelink.azurecr.io"} {
			begun := time.Now()
			if found, err := d.Find(t.Context(), name); err != nil || len(found) != 1 || found[0].Cause == nil {
				t.Errorf("%s: %+v, %v", name, found, err)
			}
			if took := time.Since(begun); took != lost {
				t.Errorf("%s: it took %v, where a lost packet is given up after %v", name, took, lost)
			}
		}
		begun := time.Now()
		if found, err := d.Everything(t.Context()); err != nil || len(found) != 3 {
			t.Errorf("%d are ill of the cluster and two private endpoints, %v", len(found), err)
		}
		if took := time.Since(begun); took != lost {
			t.Errorf("everything: it took %v, where a lost packet is given up after %v", took, lost)
		}
	})
	var asked atomic.Int64
	tell := func(each time.Duration) (out string) {
		synctest.Test(t, func(t *testing.T) {
			found, err := on(func() time.Duration { return time.Hour + time.Duration(asked.Add(1))*each }).Everything(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, of := range found {
				out += of.Subject + "\n" + told(of)
			}
		})
		return out
	}
	if first, last := tell(time.Second), tell(-time.Second); first != last {
		t.Errorf("one is told as\n%s\nand as\n%s", first, last)
	}
}
