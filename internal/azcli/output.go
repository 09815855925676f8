package azcli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/jmespath/go-jmespath"
	"sigs.k8s.io/yaml"
)

var groupOfID = regexp.MustCompile(`(?i)/resourceGroups/([^/]+)/.`)

// flatten lifts what is in "properties" up, everywhere, as az does with the answers of its SDKs.
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
		switch p := v["properties"].(type) {
		case nil:
		case map[string]any:
			for k, x := range p {
				if _, taken := out[k]; !taken {
					out[k] = flatten(x)
				}
			}
		default:
			out["properties"] = p
		}
		return out
	}
	return v
}

// withGroups adds resourceGroup, which az derives from every ID in an answer.
func withGroups(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = withGroups(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = withGroups(v[k])
		}
		if id, ok := v["id"].(string); ok && v["resourceGroup"] == nil {
			if m := groupOfID.FindStringSubmatch(id); m != nil {
				v["resourceGroup"] = m[1]
			}
		}
	}
	return v
}

// print writes a command's result in the format asked for, after the query.
func (p program) print(cmd command, v any, said arguments) error {
	v, err := plain(v)
	if err != nil {
		return err
	}
	if !cmd.raw {
		v = flatten(v)
	}
	if cmd.models {
		v = modelNames(v)
	}
	v = withGroups(v)
	query, format := said.get("query"), said.get("output")
	if query != "" {
		if v, err = jmespath.Search(query, v); err != nil {
			return usagef("argument --query: invalid jmespath_type value: '%s' (%s)", query, err)
		}
	}
	if v == nil {
		return nil // as az, which says nothing after a delete
	}
	switch format {
	case "yaml", "yamlc":
		data, err := yaml.Marshal(v)
		if err != nil {
			return err
		}
		if format == "yamlc" && p.Colour.Out {
			data = yamlKey.ReplaceAll(data, []byte("${1}"+blue+"${2}"+plainText+"${3}"))
		}
		_, err = p.Out.Write(data)
		return err
	case "tsv":
		return printTSV(p.Out, v, query)
	case "table":
		table := cmd.table
		switch {
		case query != "":
			table = nil
		case cmd.show != nil:
			v = cmd.show(v, said)
		}
		return printTable(p.Out, v, query, table)
	case "none":
		return nil
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err
	}
	text := b.Bytes()
	if format == "jsonc" && p.Colour.Out {
		text = jsonValue.ReplaceAll(text, []byte("${1}"+brown+"${2}"+plainText+"${3}"))
		text = jsonKey.ReplaceAll(text, []byte("${1}"+blue+"${2}"+plainText+"${3}"))
	}
	_, err = p.Out.Write(text)
	return err
}

// Colours of jsonc and yamlc.
const (
	blue  = "\x1b[34;01m"
	brown = "\x1b[33m"
)

var (
	jsonKey   = regexp.MustCompile(`(?m)^(\s*)("(?:[^"\\]|\\.)*")(:)`)
	jsonValue = regexp.MustCompile(`(?m)^(\s*(?:"(?:[^"\\]|\\.)*": )?)("(?:[^"\\]|\\.)*")(,?)$`)
	yamlKey   = regexp.MustCompile(`(?m)^([ -]*)([^\s:'"][^:\n]*)(:(?: |$))`)
)

// ownKeys are properties whose keys are the user's, not a model's.
var ownKeys = []string{"tags", "nodeLabels", "userAssignedIdentities", "identityProfile", "addonProfiles", "metadata"}

// modelNames spells names as the models of az's SDK do, which know no acronyms: vnetSubnetId, privateFqdn.
func modelNames(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = modelNames(v[i])
		}
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, x := range v {
			if m, is := x.(map[string]any); is && slices.Contains(ownKeys, k) {
				for name := range m {
					m[name] = modelNames(m[name])
				}
				out[k] = m
				continue
			}
			out[modelName(k)] = modelNames(x)
		}
		return out
	}
	return v
}

// modelName lowers a run of capitals but for its first, and for its last where a word begins there.
func modelName(s string) string {
	b := []byte(s)
	upper := func(i int) bool { return i >= 0 && i < len(s) && s[i] >= 'A' && s[i] <= 'Z' }
	lower := func(i int) bool { return i < len(s) && s[i] >= 'a' && s[i] <= 'z' }
	for i := range b {
		if upper(i) && upper(i-1) && !lower(i+1) {
			b[i] += 'a' - 'A'
		}
	}
	return string(b)
}

// plain is v as it would be read from JSON.
func plain(v any) (any, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var out any
	return out, json.Unmarshal(data, &out)
}

// printTSV writes a row per element, as knack's _TsvOutput: a list is its length, a document nothing.
func printTSV(out io.Writer, v any, query string) error {
	rows, ok := v.([]any)
	if !ok {
		rows = []any{v}
	}
	for _, row := range rows {
		var cells []string
		switch row := row.(type) {
		case []any:
			for _, c := range row {
				cells = append(cells, cell(c))
			}
		case map[string]any:
			for _, k := range keys(row, query) {
				cells = append(cells, cell(row[k]))
			}
		case bool:
			cells = []string{fmt.Sprint(row)} // in a row of its own it is lower case
		default:
			cells = []string{cell(row)}
		}
		if _, err := fmt.Fprintln(out, strings.Join(cells, "\t")); err != nil {
			return err
		}
	}
	return nil
}

// cell is a value as Python prints it.
func cell(v any) string {
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
	return ""
}

// columns are the titles of a table, each with the JMESPath expression of its cells.
type columns [][2]string

// printTable writes a table as tabulate's "simple" one.
func printTable(out io.Writer, v any, query string, table columns) error {
	rows, ok := v.([]any)
	if !ok {
		rows = []any{v}
	}
	if len(rows) == 0 {
		return nil
	}
	if table == nil {
		table = columnsOf(rows, query)
	}
	if len(table) == 0 {
		return errors.New("Table output unavailable. Use the --query option to specify an appropriate query. Use --debug for more info.")
	}
	lines := make([][]string, 2, len(rows)+2)
	for _, c := range table {
		lines[0] = append(lines[0], c[0])
	}
	for _, row := range rows {
		var line []string
		for _, c := range table {
			found, err := jmespath.Search(c[1], row)
			if err != nil {
				return fmt.Errorf("column %s: %w", c[0], err)
			}
			text := ""
			if found != nil {
				text = cell(found)
			}
			line = append(line, text)
		}
		lines = append(lines, line)
	}
	widths := make([]int, len(table))
	for _, line := range lines {
		for i, text := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(text))
		}
	}
	for i, w := range widths {
		w = max(w, utf8.RuneCountInString(table[i][0])+2) // tabulate's MIN_PADDING
		widths[i] = w
		lines[1] = append(lines[1], strings.Repeat("-", w))
	}
	for _, line := range lines {
		var b strings.Builder
		for i, text := range line {
			fmt.Fprintf(&b, "%-*s", widths[i]+2, text)
		}
		if _, err := fmt.Fprintln(out, strings.TrimRight(b.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

// columnsOf are the scalars of the rows, as az takes them.
func columnsOf(rows []any, query string) columns {
	var out columns
	seen := map[string]bool{}
	for _, row := range rows {
		switch row := row.(type) {
		case map[string]any:
			for _, k := range keys(row, query) {
				switch row[k].(type) {
				case string, bool, float64:
					if !seen[k] && !slices.Contains([]string{"id", "type", "etag", "revision"}, k) {
						seen[k] = true
						out = append(out, [2]string{strings.ToUpper(k[:1]) + k[1:], `"` + k + `"`})
					}
				}
			}
		case []any:
			for i := len(out); i < len(row); i++ {
				out = append(out, [2]string{fmt.Sprintf("Column%d", i+1), fmt.Sprintf("[%d]", i)})
			}
		default:
			if len(out) == 0 {
				out = columns{{"Result", "@"}}
			}
		}
	}
	return out
}

// keys are the names in a document: those that the query makes in its order, all others by the alphabet.
func keys(m map[string]any, query string) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	place := func(k string) int {
		at := regexp.MustCompile(`[{,]\s*"?` + regexp.QuoteMeta(k) + `"?\s*:`).FindStringIndex(query)
		if at == nil {
			return len(query)
		}
		return at[0]
	}
	slices.SortStableFunc(out, func(a, b string) int { return place(a) - place(b) })
	return out
}
