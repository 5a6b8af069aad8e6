{{/* The name of the watchers' Lease, as lb-watcher makes it (lease_name.rs): the right to write Leases is then a
     right to this one, and not to those of others in the namespace. */}}
{{- define "lb.leaseName" -}}
{{- $class := .Values.watcher.loadBalancerClass -}}
{{- $readable := list .Values.cluster $class | compact | join "-" | lower -}}
{{- $exact := printf "%s %s %t" .Values.cluster $class .Values.watcher.handleUnclassed -}}
lb-watcher-{{ regexReplaceAll "[^a-z0-9]" $readable "-" | trunc 60 }}-{{ include "lb.fnv1a" $exact }}
{{- end }}

{{/* FNV-1a of 32 bits, in hexadecimal. There is no XOR here: each of the eight bits is the sum of both, modulo 2. */}}
{{- define "lb.fnv1a" -}}
{{- $hash := 2166136261 -}}
{{- range $i := until (len .) -}}
{{- $byte := index $ $i -}}
{{- $low := mod $hash 256 -}}
{{- $xor := 0 -}}
{{- range $bit := list 1 2 4 8 16 32 64 128 -}}
{{- $xor = add $xor (mul $bit (mod (add (div $low $bit) (div $byte $bit)) 2)) -}}
{{- end -}}
{{- $hash = mod (mul (add (sub $hash $low) $xor) 16777619) 4294967296 -}}
{{- end -}}
{{- printf "%08x" $hash -}}
{{- end }}
