package azcli

import (
	"slices"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
)

func dnsCommands() []command {
	zoneName := named("zone-name", "z", "The name of the private DNS zone.")
	zone := resource{path: "network private-dns zone", kind: zoneType, api: dnsAPI, what: "a private DNS zone", asks: true, table: columns{
		{"ResourceGroup", "resourceGroup"}, {"Name", "name"}, {"RecordSets", "numberOfRecordSets"}, {"VirtualNetworkLinks", "numberOfVirtualNetworkLinks"}}}
	link := resource{path: "network private-dns link vnet", kind: zoneType + "/virtualNetworkLinks", api: linkAPI, what: "a virtual network link", parents: []arg{zoneName}, asks: true, table: columns{
		{"LinkName", "name"}, {"ResourceGroup", "resourceGroup"}, {"RegistrationEnabled", "registrationEnabled"}, {"VirtualNetwork", "virtualNetwork.id"}, {"LinkState", "virtualNetworkLinkState"}, {"ProvisioningState", "provisioningState"}}}
	set := resource{path: "network private-dns record-set a", kind: zoneType + "/A", api: dnsAPI, what: "an A record set", parents: []arg{zoneName}, asks: true, table: columns{
		{"Fqdn", "fqdn"}, {"Name", "name"}, {"Records", "join(', ', aRecords[].ipv4Address)"}, {"ResourceGroup", "resourceGroup"}, {"Ttl", "ttl"}}}
	record := []arg{argGroup, zoneName, named("record-set-name", "n", "The name of the record set relative to the zone."),
		{name: "ipv4-address", short: "a", help: "IPv4 address in string notation.", required: true}}
	of := func(c *call) resourceid.ID {
		return c.group().Resource(set.kind, c.get("zone-name"), c.get("record-set-name"))
	}
	return slices.Concat(zone.common(), link.common(), set.common(), []command{
		{path: "network private-dns zone create", help: "Create a private DNS zone.", args: zone.args(argTags), waits: true, example: "-g demo -n privatelink.azurecr.io", run: func(c *call) (any, error) {
			return c.global(zone.target(c), dnsAPI, nil)
		}},
		{path: "network private-dns link vnet create", help: "Create a virtual network link to the specified private DNS zone.", waits: true,
			example: "-g demo -z privatelink.azurecr.io -n link -v vnet -e false",
			args: link.args(
				arg{name: "virtual-network", short: "v", help: "Name or ID of the virtual network.", required: true},
				arg{name: "registration-enabled", short: "e", help: "Specify whether the link is registration enabled.", required: true, kind: truth}, argTags),
			run: func(c *call) (any, error) {
				return c.global(link.target(c), linkAPI, object{
					"registrationEnabled": c.is("registration-enabled"),
					"virtualNetwork":      object{"id": c.idOrName(c.get("virtual-network"), vnetType)},
				})
			}},
		{path: "network private-dns record-set a create", help: "Create an empty A record set.", args: set.args(arg{name: "ttl", help: "Record set TTL (time-to-live).", def: "3600", kind: number}), run: func(c *call) (any, error) {
			return c.write(set.target(c), dnsAPI, object{"properties": object{"ttl": c.integer("ttl")}})
		}},
		{path: "network private-dns record-set a add-record", help: "Add an A record.", args: record, run: func(c *call) (any, error) { return addRecord(c, of(c)) }},
		{path: "network private-dns record-set a remove-record", help: "Remove an A record from its record set. The set goes with its last record.",
			args: append(record, arg{name: "keep-empty-record-set", help: "Keep the empty record set if the last record is removed.", kind: flag}), run: func(c *call) (any, error) { return removeRecord(c, of(c)) }},
	})
}

// global puts a document of no region; az looks for the group first.
func (c *call) global(id resourceid.ID, apiVersion string, properties object) (any, error) {
	if _, err := c.readGroup(); err != nil {
		return nil, err
	}
	body := object{"location": "global"}
	if properties != nil {
		body["properties"] = properties
	}
	if t := c.tags(); t != nil {
		body["tags"] = t
	}
	return c.write(id, apiVersion, body)
}

// records are what a record set holds, and the parts of its document that are written back.
func (c *call) records(id resourceid.ID) (records []any, body object, err error) {
	doc, err := c.c.get(c.ctx, id, dnsAPI)
	if err != nil {
		return nil, nil, err
	}
	properties, _ := doc["properties"].(map[string]any)
	records, _ = properties["aRecords"].([]any)
	kept := object{"ttl": properties["ttl"]}
	if m, ok := properties["metadata"].(map[string]any); ok && len(m) > 0 {
		kept["metadata"] = m
	}
	body = object{"properties": kept}
	if etag, ok := doc["etag"].(string); ok {
		body["etag"] = etag
	}
	return records, body, nil
}

// addRecord reads the set, or starts one, and writes it with one record more.
func addRecord(c *call, id resourceid.ID) (any, error) {
	address := c.get("ipv4-address")
	_, _, err := c.records(id) // az looks whether the set is there, and reads it
	if err == nil {
		var records []any
		var body object
		if records, body, err = c.records(id); err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(records, func(r any) bool { return r.(map[string]any)["ipv4Address"] == address }) {
			records = append(records, object{"ipv4Address": address})
		}
		body["properties"].(object)["aRecords"] = records
		return c.write(id, dnsAPI, body)
	}
	if !IsNotFound(err) {
		return nil, err
	}
	return c.write(id, dnsAPI, object{"properties": object{"ttl": 3600, "aRecords": []any{object{"ipv4Address": address}}}})
}

func removeRecord(c *call, id resourceid.ID) (any, error) {
	records, body, err := c.records(id)
	if err != nil {
		return nil, err
	}
	left := slices.DeleteFunc(records, func(r any) bool { return r.(map[string]any)["ipv4Address"] == c.get("ipv4-address") })
	if len(left) == 0 && !c.is("keep-empty-record-set") {
		return c.remove(id, dnsAPI)
	}
	body["properties"].(object)["aRecords"] = left
	return c.write(id, dnsAPI, body)
}
