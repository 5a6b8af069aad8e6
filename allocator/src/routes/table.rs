//! The table itself, from what `PoolService` shows.

use std::{collections::HashSet, net::IpAddr};

use comfy_table::{CellAlignment, ContentLineStyle, LineStyle, Table, TableStyle};
use jiff::ZonedDateTime;
use lb_proto::v1;

use crate::engine::{AddressRange, Family};

/// As the original drew it.
const STYLE: TableStyle = TableStyle::new()
    .top_border(LineStyle::new('+', '-', '+', '+'))
    .header_lines(ContentLineStyle::new('|', '|', '|'))
    .header_separator(LineStyle::new('+', '-', '+', '+'))
    .content_lines(ContentLineStyle::new('|', '|', '|'))
    .bottom_border(LineStyle::new('+', '-', '+', '+'));

/// Free addresses in a row have a line each up to this many, and one line
/// together above it: nobody reads the lines of a /64.
const LISTED: u128 = 1024;

/// The time, then a line for every address: held ones with their holder, reserved
/// ones with whom they are kept for, free
/// ones with the namespaces that may have them. A CLUSTER column comes last when
/// there are several.
pub fn render(
    pools: &[v1::Pool],
    allocations: &[v1::Allocation],
    reservations: &[v1::Reservation],
    time: &ZonedDateTime,
) -> String {
    let clusters: std::collections::BTreeSet<_> =
        allocations.iter().map(|held| key(held).0).collect();
    let several_clusters = clusters.len() > 1;
    let mut table = Table::new();
    table.load_style(STYLE);
    let mut header = vec!["IP", "IN USE", "NAMESPACE", "SERVICE NAME", "CLUSTER IP"];
    if several_clusters {
        header.push("CLUSTER");
    }
    table.set_header(header);
    for row in rows(pools, allocations, reservations) {
        table.add_row(row.cells(several_clusters));
    }
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Center);
    }
    format!("{}\n{table}\n", time.strftime("%a %Y-%m-%d %H:%M:%S"))
}

#[derive(Debug)]
enum Row<'a> {
    Held(&'a v1::Allocation),
    Reserved(&'a v1::Reservation),
    Free {
        range: AddressRange,
        namespaces: String,
    },
}

impl Row<'_> {
    fn cells(&self, several_clusters: bool) -> Vec<String> {
        let none = || "None".to_owned();
        let (mut cells, cluster) = match self {
            Row::Held(held) => {
                let (cluster, namespace, name) = key(held);
                let cluster_ip = match held.cluster_ip.as_str() {
                    "" => none(),
                    known => known.to_owned(),
                };
                let cells = vec![
                    held.address.clone(),
                    "y".to_owned(),
                    namespace.to_owned(),
                    name.to_owned(),
                    cluster_ip,
                ];
                (cells, cluster.to_owned())
            }
            Row::Reserved(reserved) => {
                let key = reserved.service.clone().unwrap_or_default();
                let or_none = |text: String| if text.is_empty() { none() } else { text };
                let cells = vec![
                    reserved.address.clone(),
                    "y".to_owned(),
                    or_none(key.namespace),
                    or_none(key.name),
                    none(),
                ];
                (cells, or_none(key.cluster))
            }
            Row::Free { range, namespaces } => {
                let cells = vec![
                    range.to_string(),
                    "n".to_owned(),
                    namespaces.clone(),
                    none(),
                    none(),
                ];
                (cells, none())
            }
        };
        if several_clusters {
            cells.push(cluster);
        }
        cells
    }

    fn first(&self) -> Option<IpAddr> {
        match self {
            Row::Held(held) => held.address.parse().ok(),
            Row::Reserved(reserved) => reserved.address.parse().ok(),
            Row::Free { range, .. } => Some(range.first()),
        }
    }
}

fn key(held: &v1::Allocation) -> (&str, &str, &str) {
    held.service.as_ref().map_or(("", "", ""), |key| {
        (
            key.cluster.as_str(),
            key.namespace.as_str(),
            key.name.as_str(),
        )
    })
}

fn rows<'a>(
    pools: &[v1::Pool],
    allocations: &'a [v1::Allocation],
    reservations: &'a [v1::Reservation],
) -> Vec<Row<'a>> {
    let mut rows: Vec<_> = allocations.iter().map(Row::Held).collect();
    let held: HashSet<&str> = allocations.iter().map(|of| of.address.as_str()).collect();
    let is_held = |kept: &&v1::Reservation| held.contains(kept.address.as_str());
    let waiting = reservations.iter().filter(|kept| !is_held(kept));
    rows.extend(waiting.map(Row::Reserved));
    let mut held: Vec<IpAddr> = rows.iter().filter_map(Row::first).collect();
    held.sort_unstable();
    for pool in pools {
        let namespaces = match pool.namespaces.as_slice() {
            [] => "*".to_owned(),
            names => names.join(","),
        };
        for range in pool.addresses.iter().filter_map(|text| parse(text)) {
            for gap in gaps(range, &held) {
                rows.extend(listed(gap).into_iter().map(|range| Row::Free {
                    range,
                    namespaces: namespaces.clone(),
                }));
            }
        }
    }
    rows.sort_by_key(Row::first);
    rows
}

/// A range as `Pool.addresses` writes it.
fn parse(text: &str) -> Option<AddressRange> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    AddressRange::new(first.parse().ok()?, last.parse().ok()?)
}

/// The parts of `range` between the held addresses, which are in order.
fn gaps(range: AddressRange, held: &[IpAddr]) -> Vec<AddressRange> {
    let family = range.family();
    let mut gaps = Vec::new();
    let mut next = Some(Family::number(range.first()));
    let from = held.partition_point(|address| *address < range.first());
    for address in held
        .iter()
        .skip(from)
        .take_while(|held| **held <= range.last())
    {
        let number = Family::number(*address);
        if let Some(first) = next
            && first < number
        {
            gaps.extend(between(family, first, number - 1));
        }
        next = number.checked_add(1);
    }
    if let Some(first) = next {
        gaps.extend(between(family, first, Family::number(range.last())));
    }
    gaps
}

fn between(family: Family, first: u128, last: u128) -> Option<AddressRange> {
    (first <= last)
        .then(|| AddressRange::new(family.address(first), family.address(last)))
        .flatten()
}

fn listed(gap: AddressRange) -> Vec<AddressRange> {
    let (first, last) = (Family::number(gap.first()), Family::number(gap.last()));
    if last - first >= LISTED {
        return vec![gap];
    }
    let family = gap.family();
    (first..=last)
        .map(|number| AddressRange::single(family.address(number)))
        .collect()
}

#[cfg(test)]
mod tests {
    use jiff::civil;

    use super::*;

    fn held(address: &str, cluster: &str, name: &str) -> v1::Allocation {
        v1::Allocation {
            address: address.to_owned(),
            cluster_ip: "10.104.131.229".to_owned(),
            service: Some(v1::ServiceKey {
                cluster: cluster.to_owned(),
                namespace: "default".to_owned(),
                name: name.to_owned(),
            }),
            ..v1::Allocation::default()
        }
    }

    fn pool(namespaces: &[&str], addresses: &[&str]) -> v1::Pool {
        v1::Pool {
            addresses: addresses.iter().map(ToString::to_string).collect(),
            namespaces: namespaces.iter().map(ToString::to_string).collect(),
            ..v1::Pool::default()
        }
    }

    fn drawn(pools: &[v1::Pool], allocations: &[v1::Allocation]) -> String {
        let time = civil::date(2018, 7, 17)
            .at(21, 25, 2, 0)
            .in_tz("UTC")
            .unwrap();
        render(pools, allocations, &[], &time)
    }

    #[test]
    fn the_table_is_the_original_one() {
        let pools = [pool(&["default"], &["192.168.55.10-192.168.55.12"])];
        let table = drawn(&pools, &[held("192.168.55.11", "a", "my-testing-service")]);
        assert_eq!(
            table,
            "Tue 2018-07-17 21:25:02
+---------------+--------+-----------+--------------------+----------------+
|       IP      | IN USE | NAMESPACE |    SERVICE NAME    |   CLUSTER IP   |
+---------------+--------+-----------+--------------------+----------------+
| 192.168.55.10 |    n   |  default  |        None        |      None      |
| 192.168.55.11 |    y   |  default  | my-testing-service | 10.104.131.229 |
| 192.168.55.12 |    n   |  default  |        None        |      None      |
+---------------+--------+-----------+--------------------+----------------+
"
        );
    }

    #[test]
    fn a_cluster_column_comes_last_when_there_are_several() {
        let pools = [pool(
            &[],
            &["192.0.2.1-192.0.2.3", "2001:db8::-2001:db8::ffff:ffff"],
        )];
        let allocations = [
            held("192.0.2.1", "a", "one"),
            held("192.0.2.2", "b", "two"),
            held("203.0.113.1", "b", "stranded"),
            held("2001:db8::1", "b", "six"),
        ];
        assert_eq!(
            drawn(&pools, &allocations),
            "Tue 2018-07-17 21:25:02
+---------------------------------+--------+-----------+--------------+----------------+---------+
|                IP               | IN USE | NAMESPACE | SERVICE NAME |   CLUSTER IP   | CLUSTER |
+---------------------------------+--------+-----------+--------------+----------------+---------+
|            192.0.2.1            |    y   |  default  |      one     | 10.104.131.229 |    a    |
|            192.0.2.2            |    y   |  default  |      two     | 10.104.131.229 |    b    |
|            192.0.2.3            |    n   |     *     |     None     |      None      |   None  |
|           203.0.113.1           |    y   |  default  |   stranded   | 10.104.131.229 |    b    |
|            2001:db8::           |    n   |     *     |     None     |      None      |   None  |
|           2001:db8::1           |    y   |  default  |      six     | 10.104.131.229 |    b    |
| 2001:db8::2-2001:db8::ffff:ffff |    n   |     *     |     None     |      None      |   None  |
+---------------------------------+--------+-----------+--------------+----------------+---------+
"
        );
    }
}
