<?php
/**
 * What happens in the background, and when.
 *
 * @package Avatarmod
 */

namespace Avatarmod;

defined( 'ABSPATH' ) || exit;

/** WP-Cron: one event every few minutes, and one for each picture that was just chosen. */
final class Schedule {

	public const TICK = 'avatarmod_tick';

	private const EVERY_S = 5 * MINUTE_IN_SECONDS;

	/** Users looked at in one turn, so that no turn takes long. */
	private const PAGE = 50;

	/** Answer the events. */
	public static function hook(): void {
		// phpcs:ignore WordPress.WP.CronInterval -- Verdicts shall not wait for an hour.
		add_filter( 'cron_schedules', array( self::class, 'interval' ) );
		add_action( self::TICK, array( self::class, 'tick' ) );
		add_action( Sender::EXAMINE, array( Sender::class, 'examine' ) );
		add_action( 'init', array( self::class, 'start' ) );
	}

	/** Our interval. */
	public static function interval( array $schedules ): array {
		$schedules['avatarmod'] = array(
			'interval' => self::EVERY_S,
			'display'  => __( 'Every five minutes (avatar moderation)', 'avatarmod' ),
		);
		return $schedules;
	}

	/** Begin, unless it is running. */
	public static function start(): void {
		if ( ! wp_next_scheduled( self::TICK ) ) {
			add_filter( 'cron_schedules', array( self::class, 'interval' ) ); // phpcs:ignore WordPress.WP.CronInterval
			wp_schedule_event( time(), 'avatarmod', self::TICK );
		}
	}

	/** End with the plugin. */
	public static function stop(): void {
		wp_unschedule_hook( self::TICK );
		wp_unschedule_hook( Sender::EXAMINE );
	}

	/** One turn. */
	public static function tick(): void {
		if ( null === Settings::parse() ) {
			return;
		}
		Settings::note( 'ticked_at', time() );
		Reconciler::run();
		Sender::send_due( self::PAGE );
		self::look_at_more();
	}

	/** Look at everybody's picture, a page a turn: after connecting, and when somebody asks for it. */
	public static function look_at_all(): void {
		Settings::note( 'looked_up_to', 0 );
	}

	/** The next page; null once there is none. */
	public static function look_at_more(): ?int {
		global $wpdb;
		$last = Settings::noted( 'looked_up_to' );
		if ( null === $last ) {
			return null;
		}
		$ids = $wpdb->get_col(
			$wpdb->prepare( "SELECT ID FROM $wpdb->users WHERE ID > %d ORDER BY ID LIMIT %d", $last, self::PAGE )
		);
		array_map( array( Sender::class, 'examine' ), array_map( 'intval', $ids ) );
		Settings::note( 'looked_up_to', $ids ? (int) end( $ids ) : null );
		return count( $ids );
	}
}
