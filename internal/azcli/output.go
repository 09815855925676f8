package azcli

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
	"text/tabwriter"

	"github.com/jmespath/go-jmespath"
	"sigs.k8s.io/yaml"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
)

// flatten lifts what is in "properties" up, everywhere, as az does with the answers of its SDKs, and adds
// resourceGroup, which az derives from the ID.
func flatten(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = flatten(v[i])
		}
		return v
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, x := range v {
			if k != "properties" {
				out[k] = flatten(x)
			}
		}
		if p, ok := v["properties"].(map[string]any); ok {
			for k, x := range p {
				if _, taken := out[k]; !taken {
					out[k] = flatten(x)
				}
			}
		} else if p, ok := v["properties"]; ok {
			out["properties"] = p
		}
		if s, ok := v["id"].(string); ok {
			if id, err := resourceid.Parse(s); err == nil && id.ResourceGroup() != "" && out["resourceGroup"] == nil && !id.Is("Microsoft.Resources/resourceGroups") {
				out["resourceGroup"] = id.ResourceGroup()
			}
		}
		return out
	}
	return v
}

// print writes a result in the format, after the query.
func print(out io.Writer, v any, format, query string) error {
	if query != "" {
		found, err := jmespath.Search(query, v)
		if err != nil {
			return fmt.Errorf("argument --query: invalid jmespath_type value: %q: %w", query, err)
		}
		v = found
	}
	if v == nil && query == "" {
		return nil // as az, which is silent after a delete
	}
	switch format {
	case "", "json", "jsonc":
		if v == nil {
			return nil
		}
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(v)
	case "yaml", "yamlc":
		data, err := yaml.Marshal(v)
		if err != nil {
			return err
		}
		_, err = out.Write(data)
		return err
	case "tsv":
		return printTSV(out, v)
	case "table":
		return printTable(out, v)
	case "none":
		return nil
	}
	return fmt.Errorf("argument --output/-o: invalid choice: %q (choose from 'json', 'jsonc', 'yaml', 'yamlc', 'table', 'tsv', 'none')", format)
}

func printTSV(out io.Writer, v any) error {
	rows, ok := v.([]any)
	if !ok {
		rows = []any{v}
	}
	for _, row := range rows {
		var cells []string
		switch row := row.(type) {
		case []any:
			for _, c := range row {
				cells = append(cells, scalar(c))
			}
		case map[string]any:
			for _, k := range keys(row) {
				cells = append(cells, scalar(row[k]))
			}
		case nil:
			continue
		default:
			cells = []string{scalar(row)}
		}
		if _, err := fmt.Fprintln(out, strings.Join(cells, "\t")); err != nil {
			return err
		}
	}
	return nil
}

func scalar(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case string:
		return v
	case bool:
		if v {
			return "True"
		}
		return "False"
	case float64:
		if v == float64(int64(v)) {
			return fmt.Sprint(int64(v))
		}
		return fmt.Sprint(v)
	case []any:
		return fmt.Sprint(len(v))
	}
	data, _ := json.Marshal(v)
	return string(data)
}

// first are the columns that a table begins with, where a resource has them.
var first = []string{"name", "location", "resourceGroup", "kubernetesVersion", "currentKubernetesVersion", "count", "vmSize", "provisioningState", "fqdn", "privateFQDN", "loginServer", "state"}

func printTable(out io.Writer, v any) error {
	rows, ok := v.([]any)
	if !ok {
		rows = []any{v}
	}
	if len(rows) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	if head, ok := rows[0].(map[string]any); ok {
		columns := tableColumns(head)
		var titles, rules []string
		for _, c := range columns {
			title := strings.ToUpper(c[:1]) + c[1:]
			titles, rules = append(titles, title), append(rules, strings.Repeat("-", len(title)))
		}
		fmt.Fprintln(w, strings.Join(titles, "\t"))
		fmt.Fprintln(w, strings.Join(rules, "\t"))
		for _, r := range rows {
			row, _ := r.(map[string]any)
			cells := make([]string, len(columns))
			for i, c := range columns {
				if row[c] != nil {
					cells[i] = scalar(row[c])
				}
			}
			fmt.Fprintln(w, strings.TrimRight(strings.Join(cells, "\t"), "\t"))
		}
		return w.Flush()
	}
	fmt.Fprintln(w, "Result\n------")
	for _, r := range rows {
		fmt.Fprintln(w, scalar(r))
	}
	return w.Flush()
}

// tableColumns are the scalars of a row, as az takes them: the telling ones first.
func tableColumns(row map[string]any) []string {
	var out []string
	for _, k := range first {
		if _, ok := row[k]; ok {
			out = append(out, k)
		}
	}
	if len(out) >= 3 {
		return out
	}
	for _, k := range keys(row) {
		switch row[k].(type) {
		case string, bool, float64:
			if k != "id" && k != "type" && k != "etag" && !slices.Contains(out, k) {
				out = append(out, k)
			}
		}
	}
	return out
}

func keys(m map[string]any) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}
