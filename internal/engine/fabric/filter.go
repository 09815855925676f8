package fabric

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
)

const (
	tableName = "cloister"
	// digestPrefix begins the name of an empty chain that tells what the table holds. It is made in the same
	// transaction as the rest, so it cannot lie, and it needs no record beside the kernel's.
	digestPrefix = "content-"
)

// filterAt opens the packet filter of the namespace behind the descriptor.
func filterAt(fd int) (*nftables.Conn, error) {
	return nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(fd), nftables.WithSockOptions(func(c *netlink.Conn) error {
		// A ruleset is one message to the kernel, and its acknowledgements come all at once.
		return errors.Join(c.SetWriteBuffer(8<<20), c.SetReadBuffer(8<<20))
	}))
}

// ensureRules replaces the namespace's ruleset in one transaction, unless it is there already. Counters and tallies keep their values.
func (o *openSpace) ensureRules() error {
	digest, err := o.rules.digest()
	if err != nil {
		return err
	}
	c, err := o.filter()
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	chains, err := c.ListChains()
	if err != nil {
		return fmt.Errorf("list chains: %w", err)
	}
	present := 0
	for _, ch := range chains {
		if ch.Table.Name == tableName && ch.Name == digestPrefix+digest {
			present++
		}
	}
	if present == 2 {
		return nil
	}
	return o.do("rules of "+o.name, func() error {
		err := o.replaceRules(c, chains, digest, true)
		if err != nil {
			// Something in the table cannot be kept, as when a version of this program changes what it counts.
			err = o.replaceRules(c, chains, digest, false)
		}
		return err
	})
}

func (o *openSpace) replaceRules(c *nftables.Conn, chains []*nftables.Chain, digest string, keep bool) error {
	for _, f := range []struct {
		family nftables.TableFamily
		want   table
	}{{nftables.TableFamilyIPv4, o.rules.IPv4}, {nftables.TableFamilyIPv6, o.rules.IPv6}} {
		t := c.AddTable(&nftables.Table{Name: tableName, Family: f.family})
		if keep {
			if err := clearTable(c, t, chains, f.want); err != nil {
				return err
			}
		} else {
			c.DelTable(t)
			c.AddTable(t)
		}
		if err := f.want.send(c, t, digest); err != nil {
			return err
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("replace the rules: %w", err)
	}
	return nil
}

// clearTable queues the removal of everything but counters and tallies that are still wanted.
func clearTable(c *nftables.Conn, t *nftables.Table, chains []*nftables.Chain, want table) error {
	var mine []*nftables.Chain
	for _, ch := range chains {
		if ch.Table.Name == t.Name && ch.Table.Family == t.Family {
			mine = append(mine, ch)
		}
	}
	if len(mine) == 0 {
		return nil // a new table
	}
	sets, err := c.GetSets(t)
	if err != nil {
		return fmt.Errorf("list sets: %w", err)
	}
	c.FlushTable(t)
	tallies := map[string]bool{}
	for _, tl := range want.Tallies {
		tallies[tl.Name] = true
	}
	for _, s := range sets {
		if s.Anonymous || tallies[s.Name] {
			continue
		}
		c.FlushSet(s) // a map's verdicts hold the chains they jump to
		c.DelSet(s)
	}
	for _, ch := range mine {
		c.DelChain(ch)
	}
	return nil
}

// send queues the table's content.
func (t table) send(c *nftables.Conn, to *nftables.Table, digest string) error {
	for _, name := range t.Counters {
		c.AddObj(&nftables.NamedObj{Table: to, Name: name, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}})
	}
	chains := map[string]*nftables.Chain{}
	for _, ch := range t.Chains {
		n := &nftables.Chain{Name: ch.Name, Table: to}
		if b := ch.Base; b != nil {
			policy := nftables.ChainPolicyAccept
			if b.Drop {
				policy = nftables.ChainPolicyDrop
			}
			n.Type, n.Hooknum, n.Priority, n.Policy = b.Type, &b.Hook, &b.Priority, &policy
		}
		chains[ch.Name] = c.AddChain(n)
	}
	c.AddChain(&nftables.Chain{Name: digestPrefix + digest, Table: to})
	// Identifiers tell sets of one transaction apart. The library would draw them from a variable all connections share.
	id := uint32(0)
	for _, tl := range t.Tallies {
		id++
		if err := c.AddSet(&nftables.Set{ID: id, Table: to, Name: tl.Name, KeyType: tl.Key, Dynamic: true, Size: 65535}, nil); err != nil {
			return fmt.Errorf("set %s: %w", tl.Name, err)
		}
	}
	for _, s := range t.Sets {
		id++
		n := &nftables.Set{ID: id, Table: to, Name: s.Name, KeyType: s.Key, DataType: s.Data, IsMap: s.Map, Interval: s.Interval}
		if err := c.AddSet(n, nil); err != nil {
			return fmt.Errorf("set %s: %w", s.Name, err)
		}
		// An attribute of netlink has 64 KiB at most.
		const most = 500
		for rest := s.Elements; len(rest) > 0; {
			part := rest[:min(most, len(rest))]
			rest = rest[len(part):]
			if err := c.SetAddElements(n, part); err != nil {
				return fmt.Errorf("set %s: %w", s.Name, err)
			}
		}
	}
	for _, ch := range t.Chains {
		for _, r := range ch.Rules {
			n := &nftables.Rule{Table: to, Chain: chains[ch.Name], Exprs: r.Exprs}
			if r.Comment != "" {
				n.UserData = userdata.AppendString(nil, userdata.TypeComment, r.Comment)
			}
			c.AddRule(n)
		}
	}
	return nil
}
