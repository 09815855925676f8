package main

import (
	"fmt"
	"os"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// appliance makes the namespace route for others and give what it forwards its own address, as the operating system of
// a virtual appliance does, until the file is there. A story that is over makes it.
func appliance(until string) error {
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		return err
	}
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := c.AddTable(&nftables.Table{Name: "appliance", Family: nftables.TableFamilyIPv4})
	out := c.AddChain(&nftables.Chain{Name: "out", Table: t, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
	c.AddRule(&nftables.Rule{Table: t, Chain: out, Exprs: []expr.Any{&expr.Masq{}}})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("translate what is forwarded: %w", err)
	}
	for {
		if _, err := os.Stat(until); err == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
}
