<?php
/**
 * Tells users what became of their picture.
 *
 * @package Avatarmod
 */

namespace Avatarmod;

defined( 'ABSPATH' ) || exit;

/** Sentences for users and for administrators. */
final class Notices {

	/** Show them in the dashboard. */
	public static function hook(): void {
		add_action( 'admin_notices', array( self::class, 'show' ) );
	}

	/** What to tell somebody of their picture; empty where there is nothing to tell. */
	public static function sentence( Record $record ): string {
		switch ( $record->state ) {
			case '':
			case 'approved':
				return '';
			case 'blocked':
				/* translators: %s: why, in a sentence of the moderation service. */
				return trim( sprintf( __( 'Your avatar is not shown. %s', 'avatarmod' ), $record->reason ) );
			case 'rejected':
				/* translators: %s: why, in a sentence of the moderation service. */
				return trim( sprintf( __( 'Your avatar cannot be used: choose another picture. %s', 'avatarmod' ), $record->reason ) );
			default:
				return __( 'Your avatar is being looked at. Others see the default avatar until then.', 'avatarmod' );
		}
	}

	/** In the dashboard: to everybody about their own, to administrators about the connection. */
	public static function show(): void {
		$record = Record::of( get_current_user_id() );
		$text   = self::sentence( $record );
		if ( '' !== $text ) {
			$is_refused = in_array( $record->state, array( 'blocked', 'rejected' ), true );
			self::notice( $is_refused ? 'warning' : 'info', $text );
		}
		$fault = Settings::noted( 'fault' );
		if ( null !== $fault && current_user_can( 'manage_options' ) ) {
			/* translators: %s: what the service answered. */
			self::notice( 'error', sprintf( __( 'Avatar moderation takes no pictures: %s Look at Settings, Avatar moderation.', 'avatarmod' ), $fault ) );
		}
	}

	/** On the pages of BuddyPress. */
	public static function show_in_template(): void {
		$text = self::sentence( Record::of( get_current_user_id() ) );
		if ( '' !== $text ) {
			printf( '<aside class="bp-feedback bp-messages info"><p>%s</p></aside>', esc_html( $text ) );
		}
	}

	/** One box. */
	private static function notice( string $kind, string $text ): void {
		printf( '<div class="notice notice-%s"><p>%s</p></div>', esc_attr( $kind ), esc_html( $text ) );
	}
}
