package fabric

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Counters tell what the fabric saw since its namespaces came into being.
type Counters struct {
	Public   []Arrival          // packets that came to `public` from any network, by destination
	Networks map[string]Refused // by the network's ID
}

// Arrival counts what came from networks to one destination in `public`, whether or not anything answered there.
type Arrival struct {
	Destination    netip.Addr
	Packets, Bytes uint64
}

// Refused counts packets that a network dropped.
type Refused struct {
	Refused uint64 // no path, or denied by a security group
	Spoofed uint64 // sent from an address that is not the NIC's
	IPv6    uint64
}

// Counters reads the counters of the networks that the last Set asked for.
func (f *Fabric) Counters(ctx context.Context) (Counters, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	result := Counters{Networks: map[string]Refused{}}
	s, found, err := readState(f.statePath())
	if err != nil || !found {
		return result, err
	}
	if result.Public, err = f.arrivals(); err != nil {
		return Counters{}, fmt.Errorf("counters of %s: %w", publicName, err)
	}
	for _, n := range s.Config.Networks {
		if err := ctx.Err(); err != nil {
			return Counters{}, err
		}
		if result.Networks[n.ID], err = f.refused(n); err != nil {
			return Counters{}, fmt.Errorf("counters of network %s: %w", n.ID, err)
		}
	}
	return result, nil
}

var families = []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6}

func (f *Fabric) arrivals() (all []Arrival, err error) {
	err = f.inFilter(publicName, func(c *nftables.Conn) error {
		for _, family := range families {
			t := &nftables.Table{Name: tableName, Family: family}
			elements, err := c.GetSetElements(&nftables.Set{Table: t, Name: arrivalTally})
			if err != nil {
				return err
			}
			for _, e := range elements {
				a, ok := netip.AddrFromSlice(e.Key)
				if !ok || e.Counter == nil {
					return fmt.Errorf("element %x of %s has no counter", e.Key, arrivalTally)
				}
				all = append(all, Arrival{Destination: a, Packets: e.Counter.Packets, Bytes: e.Counter.Bytes})
			}
		}
		return nil
	})
	slices.SortFunc(all, func(a, b Arrival) int { return a.Destination.Compare(b.Destination) })
	return all, err
}

func (f *Fabric) refused(n Network) (r Refused, err error) {
	into := map[string]*uint64{refusedCounter: &r.Refused, spoofedCounter: &r.Spoofed, ipv6Counter: &r.IPv6}
	err = f.inFilter(n.NetNS(), func(c *nftables.Conn) error {
		for _, family := range families {
			objects, err := c.GetNamedObjects(&nftables.Table{Name: tableName, Family: family})
			if err != nil {
				return err
			}
			for _, o := range objects {
				named, ok := o.(*nftables.NamedObj)
				if !ok {
					continue
				}
				counter, ok := named.Obj.(*expr.Counter)
				if to := into[named.Name]; ok && to != nil {
					*to += counter.Packets
				}
			}
		}
		return nil
	})
	return r, err
}

// inFilter reads the packet filter of a namespace. One that is not there yet has counted nothing.
func (f *Fabric) inFilter(name string, fn func(*nftables.Conn) error) error {
	file, err := os.Open(f.layout.NetNS(name))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	c, err := filterAt(int(file.Fd()))
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	return fn(c)
}
